// Finished blocks on disk: the checkpoints from which an interrupted compression resumes, and the
// place the final file is copied from. One directory per fingerprint inside the state directory, so
// another request's work is neither used nor lost.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/block.h"
#include "compress/fingerprint.h"
#include "io/safetensors.h"

namespace subbit {

/// A finished block, mapped. Its views live as long as it does.
struct StoredBlock {
  std::shared_ptr<SafetensorsFile> file;
  std::vector<CompressedLinear> linears;
};

using Numbers = std::map<std::string, double, std::less<>>;

enum class BlockStage { kFitted, kTuned };

class BlockStore {
 public:
  /// Creates directories as needed. Throws kFileError.
  BlockStore(const std::string& state_directory, const Fingerprint& fingerprint);

  /// Where this request's work lies; others may put theirs beside it.
  const std::string& directory() const { return directory_; }

  /// Throws kFileError. The block appears whole or not at all.
  void save(int64_t index, const FinishedBlock& block, BlockStage stage = BlockStage::kFitted);
  /// The block if it is there and holds exactly `expected`, else an empty `file`: what does not
  /// read back is made again.
  StoredBlock load(int64_t index, const std::vector<TensorSpec>& expected,
                   BlockStage stage = BlockStage::kFitted) const;
  /// Numbers by name, in a file `name`: what was measured before the first block. Throws
  /// kFileError.
  void save_numbers(const std::string& name, const Numbers& numbers);
  /// Empty where there are none, or none that can be read.
  Numbers load_numbers(const std::string& name) const;
  /// Removes what this request stored, and the state directory when nothing else is in it.
  void remove();

 private:
  std::string path_of_numbers(const std::string& name) const;
  std::string path_of(int64_t index, BlockStage stage) const;

  std::string parent_;
  std::string directory_;
};

}  // namespace subbit
