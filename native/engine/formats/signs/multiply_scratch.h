// Memory that products with codes reuse from call to call, so that decoding allocates nothing once
// it has seen its largest layer. Owned by whoever multiplies; used by one call at a time.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "formats/signs/loaded_codes.h"
#include "formats/signs/quantized_rows.h"
#include "formats/signs/sign_dot.h"

namespace subbit {

struct MultiplyScratch {
  /// `input` loaded from these codes; several weights that read one input load it once. Whoever
  /// writes other codes to the same place sets it to null.
  const QuantizedRows* loaded = nullptr;
  SignOperand input;

  // A packed linear's: scaled inputs of one with its own s_pre; every term's sums and scales.
  Buffer<float> scaled;
  QuantizedRows scaled_codes;
  SignOperand scaled_input;
  Buffer<int32_t> sums;
  Buffer<int32_t> exponents;
  Buffer<float> gains;

  // Between the stages of a factored term.
  Buffer<int32_t> rank_sums;
  Buffer<float> rank_values;
  QuantizedRows rank_codes;
  SignOperand rank_input;

  // A group format's.
  LoadedCodes group_codes;
  Buffer<uint8_t> group_operand;
};

}  // namespace subbit
