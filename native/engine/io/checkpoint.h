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

/// Whether the tensors' bytes will be read, or their names, types and lengths alone.
enum class CheckpointData {
  kUsable,
  /// No byte of a tensor is mapped or copied: views have their lengths, and reading through them
  /// is a fault. Files that end behind their header are as good as whole ones.
  kHeadersOnly,
};

class Checkpoint {
 public:
  /// `path` is a directory with config.json and model.safetensors (or shards with
  /// model.safetensors.index.json), or a llama2.c checkpoint file (.bin), which is presented under
  /// the house's names with wq and wk reordered for the rotate-half rotary.
  /// Throws kFileError (with what was looked for), kCorruptFile, kUnsupportedFormat.
  static Checkpoint open(const std::string& path, CheckpointData data = CheckpointData::kUsable);

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
  /// The weight files as they are mapped, whole.
  std::vector<std::span<const std::byte>> mappings() const;
  /// Bytes of all weight files, headers included.
  uint64_t file_bytes() const;
  /// Bytes of tensors that are (or, of headers alone, would be) copies rather than views: those
  /// that lie askew, and the reordered ones of a llama2.c checkpoint.
  uint64_t private_bytes() const;
  /// Throws kFileError when a weight file has been written or cut since it was mapped. Cheap: a
  /// system call a file.
  void check_unchanged() const;
  /// Reads a byte of every page of every tensor, so that all of them are resident.
  void touch() const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Runs `work`, which reads the checkpoint's tensors, and believes it only if they are what they
/// were: throws kFileError before, after, and in place of an error that came of lost pages.
template <typename Work>
void with_unchanged(const Checkpoint& checkpoint, const Work& work) {
  checkpoint.check_unchanged();
  try {
    work();
  } catch (...) {
    checkpoint.check_unchanged();
    throw;
  }
  checkpoint.check_unchanged();
}

}  // namespace subbit
