// What a plan needs to know of a model's weights, and no byte of them: names and lengths of the
// tensors, from a file's header or worked out for a shape that no file holds yet.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"

namespace subbit {

/// One entry of a header.
struct TensorLength {
  std::string name;
  uint64_t bytes = 0;
};

/// One matrix a forward pass multiplies by, as far as a header knows it.
struct MatrixFacts {
  std::string format;  // "packed", "int4", "int8" or "dense"
  Shape shape;
  uint64_t bytes = 0;
  bool is_end = false;  // embedding or head: only the last rows of a chunk go through it
};

struct WeightFacts {
  uint64_t body = 0;       // tensors of the decoder blocks, the tables left out
  uint64_t tables = 0;     // codebooks that linears share
  uint64_t embedding = 0;  // a tied matrix counts here
  uint64_t head = 0;
  uint64_t rest = 0;     // last norm, headers, padding
  uint64_t widened = 0;  // float copies of norms and scales that loading makes
  uint64_t copied = 0;   // tensors that loading copies whole: see Checkpoint::private_bytes()
  int most_terms = 0;    // of a packed linear; 0: nobody says
  std::vector<MatrixFacts> matrices;

  uint64_t mapped() const { return body + tables + embedding + head + rest; }
};

/// `file_bytes`: of all weight files, headers included.
WeightFacts weight_facts(const Manifest& manifest, const ModelConfig& config,
                         std::span<const TensorLength> tensors, uint64_t file_bytes);

/// What a config says of the packed linear with most terms; 0 where it says nothing. A hint: plans
/// are too large without it, and no kernel believes it.
int most_terms(const Json& config);

/// What a file with body linears at `bits` per weight, embeddings and head in int4 would hold.
std::vector<TensorLength> imagined_tensors(const Manifest& manifest, const ModelConfig& config,
                                           double bits);

}  // namespace subbit
