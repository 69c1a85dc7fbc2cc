// The `dense` format: F32, F16 or BF16 weights as a checkpoint holds them. See dense.cc.
#pragma once

#include <memory>

#include "base/buffer.h"
#include "formats/format.h"

namespace subbit {

const Format& dense_format();
/// A dense float32 weight [rows, cols] that owns its values: what unpacking to floats gives.
std::unique_ptr<Weight> make_dense_weight(Buffer<float> values, Shape shape);

}  // namespace subbit
