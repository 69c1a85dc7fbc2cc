// From tensors to linears, for every architecture: which name holds a weight, in which format, and
// whether one packed tensor stands for several checkpoint matrices.
#pragma once

#include <string>

#include "backend/backend.h"
#include "models/model.h"
#include "models/tensor_claims.h"

namespace subbit {

enum class BiasRule { kNone, kExpected };

/// `spec.name`.packed for the whole stack if there is one, else each part by itself: `part`.packed,
/// .int2, .int3, .int4, .int8 or .weight. A part stored as .weight has its .bias beside it when one
/// is expected. Shared tables that a packed tensor names are claimed with it. Throws kCorruptFile
/// or kUnsupportedFormat by name.
Linear load_linear(const LinearSpec& spec, BiasRule bias, WeightMode mode, TensorClaims& claims);

/// The weight stored under a tensor name such as "model.embed_tokens.weight" (or another form of
/// it); null if there is none.
std::shared_ptr<const Weight> load_weight(const std::string& tensor_name, Shape shape,
                                          WeightMode mode, TensorClaims& claims);

/// Refuses a checkpoint quantized by another tool, or by a layout this build does not know.
void check_quantization(const Json& config, const std::string& where);

inline constexpr int kLayoutVersion = 1;

}  // namespace subbit
