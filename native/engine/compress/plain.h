// Matrices that are written one by one instead of packed: embeddings, heads, and linears of the
// body that are kept. Each is the checkpoint's own bytes, or codes of a few bits in groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compress/finished_tensor.h"
#include "formats/format.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"

namespace subbit {

inline constexpr int kAsStored = 16;

struct PlainTensor {
  std::string source;  // the checkpoint's tensor
  int bits = kAsStored;
  Shape shape;      // of a bias: 1 row
  TensorSpec spec;  // as it will be written
};

/// The tensor `name` ("... .weight") of the checkpoint, in groups under the suffix that says so.
/// `source` where it lies under another name. Throws kInvalidOption on a width with no format.
PlainTensor plan_plain(const Checkpoint& checkpoint, const std::string& name, Shape shape, int bits,
                       const std::string& source = {});
/// "int4", "as stored".
std::string describe_plain(const PlainTensor& plain);
double predicted_plain_error(const PlainTensor& plain);

/// Throws kNonFinite naming the tensor. Memory: fit_groups'.
FinishedTensor make_plain(const PlainTensor& plain, const Checkpoint& checkpoint);
/// The checkpoint's own, as the format of its type sees it.
std::unique_ptr<Weight> view_source(const PlainTensor& plain, const Checkpoint& checkpoint);
/// Views `bytes`, which make_plain made.
std::unique_ptr<Weight> view_plain(const PlainTensor& plain, std::span<const std::byte> bytes);

}  // namespace subbit
