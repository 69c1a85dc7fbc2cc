// The compressed model as files: one safetensors and the config, each whole or not at all.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compress/block_store.h"
#include "compress/plan.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {

struct WriteRequest {
  std::string directory;
  const Checkpoint* checkpoint = nullptr;
  const Manifest* manifest = nullptr;
  const std::vector<FinishedTensor>* ends = nullptr;  // the embedding and the head
  const CompressionPlan* plan = nullptr;
  const std::vector<StoredBlock>* blocks = nullptr;
  /// Tables that packed linears share, named shared_table_name(number); null when there are none.
  const std::vector<FinishedTensor>* tables = nullptr;
};

struct WrittenModel {
  uint64_t bytes = 0;
  double bits_per_weight_body = 0.0;
  double bits_per_weight_file = 0.0;
  int most_terms = 0;  // of a linear: a hint for plans of memory, which read no tensor
};

/// Writes model.safetensors, then config.json: the source's, with our quantization_config. Throws
/// kFileError, kNonFinite, kAborted (not once the first file has its name).
WrittenModel write_model(const WriteRequest& request, JobControl& control);

/// The text of config.json: `source` with our quantization_config.
std::string compressed_config(const Json& source, const WrittenModel& written);

/// `path` and what leads to it. Throws kFileError.
void make_directories(const std::string& path);

}  // namespace subbit
