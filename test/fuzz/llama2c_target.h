// Any bytes are either refused or a checkpoint whose tensors all lie in memory.
#pragma once

#include "fuzz/target.h"
#include "io/checkpoint_contents.h"

namespace subbit::fuzz {

inline bool fuzz_llama2c(std::span<const std::byte> input) {
  CheckpointContents contents;
  const bool accepted = accepts({ErrorCode::kCorruptFile, ErrorCode::kUnsupportedFormat},
                                [&] { contents = parse_llama2c(input, "fuzz"); });
  if (!accepted) return false;
  require(contents.config.if_object() != nullptr, "a config that is no object");
  require(contents.file_bytes == input.size(), "a file of another size");
  for (const TensorView& tensor : contents.tensors) {
    int64_t product = 1;
    for (const int64_t size : tensor.shape) product *= size;
    require(product == tensor.count() && product > 0, "a length beside its shape");
    read_all(tensor.bytes);
  }
  return true;
}

}  // namespace subbit::fuzz
