// What the readers of the two kinds of checkpoint hand to Checkpoint. Private to io/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"

namespace subbit {

struct CheckpointContents {
  Json config;
  std::vector<TensorView> tensors;  // in any order; names unique
  /// Mappings and buffers that the views point into.
  std::vector<std::shared_ptr<const void>> owners;
  std::vector<std::shared_ptr<const MappedFile>> files;  // of the weights
  uint64_t file_bytes = 0;
  uint64_t private_bytes = 0;  // of tensors that are copies
};

/// A directory with config.json and model.safetensors, or shards and their index.
CheckpointContents read_huggingface(const std::string& directory, CheckpointData data);

/// A legacy llama2.c checkpoint in one file.
CheckpointContents read_llama2c(const std::string& path, CheckpointData data);

/// The same over bytes in memory, which must outlive the views: what the fuzzer calls.
CheckpointContents parse_llama2c(std::span<const std::byte> bytes, std::string_view where,
                                 CheckpointData data = CheckpointData::kUsable);

}  // namespace subbit
