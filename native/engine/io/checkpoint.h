// A model on disk, whatever its container: the parsed config and every tensor under its Hugging
// Face name. Knows files; does not know which tensors an architecture wants.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "io/safetensors.h"

namespace subbit {

class Checkpoint {
 public:
  /// `path` is a directory with config.json and model.safetensors (or shards with
  /// model.safetensors.index.json), or a llama2.c checkpoint file (.bin), which is presented under
  /// the house's names with wq and wk reordered for the rotate-half rotary.
  /// Throws kFileError (with what was looked for), kCorruptFile, kUnsupportedFormat.
  static Checkpoint open(const std::string& path);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::string& path() const;
  /// config.json, or its equivalent made from a llama2.c header. Always an object.
  const Json& config() const;
  /// Sorted by name; names are unique over all shards. Each begins at a multiple of its dtype's
  /// size, U8 (packed layouts) at a multiple of four: a tensor that lies askew in its file is a
  /// copy, all others view the mapping. The views live as long as this object.
  const std::vector<TensorView>& tensors() const;
  const TensorView* find(std::string_view name) const;
  /// Bytes of all weight files, headers included.
  uint64_t file_bytes() const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace subbit
