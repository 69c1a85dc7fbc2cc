// What the tests of metal/*.metal share: dispatches spelled short, every thread order, and the CPU
// engine's numbers in the GPU's layouts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "formats/signs/quantized_rows.h"
#include "metal/qvec.h"
#include "support/metal_on_cpu/exact_buffer.h"
#include "support/metal_on_cpu/metal_on_cpu.h"

namespace subbit::test {

using metal_on_cpu::Binding;
using metal_on_cpu::bytes_of;
using metal_on_cpu::Dispatch;
using metal_on_cpu::ExactBuffer;
using metal_on_cpu::Size3;
using metal_on_cpu::ThreadOrder;

inline constexpr ThreadOrder kThreadOrders[] = {ThreadOrder::kForward, ThreadOrder::kReversed,
                                                ThreadOrder::kRandom};

std::vector<float> random_floats(size_t count, uint64_t seed);

/// One token's QVec after another, as `quantize` should write them; headers say rho and exponent 0.
std::vector<uint32_t> make_qvecs(const QuantizedRows& rows, std::span<const float> rho);
/// Quantizes [tokens, columns] on the CPU.
QuantizedRows cpu_quantize(const std::vector<float>& values, int64_t tokens);

/// Runs `dispatch` in each thread order on fresh copies of `outputs` (indices of buffers) and
/// expects the same bytes from each. The buffers end up as the last order left them.
void run_in_every_order(Dispatch dispatch, const std::vector<size_t>& outputs);

/// "where: first difference", recorded as a failure, unless a and b are equal to the bit.
void expect_same_words(std::span<const uint32_t> a, std::span<const uint32_t> b,
                       const std::string& where);

}  // namespace subbit::test
