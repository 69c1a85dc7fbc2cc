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
  /// Throws kFileError, kCorruptFile, kUnsupportedFormat.
  static Checkpoint open(const std::string& path);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::string& path() const;
  /// config.json, or its equivalent made from a llama2.c header. Always an object.
  const Json& config() const;
  /// Sorted by name; names are unique over all shards.
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
