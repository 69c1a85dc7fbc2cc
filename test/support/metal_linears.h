// Packed linears as the tests of the sign kernels need them: on the CPU as a Weight, on the GPU as
// the buffers and arguments of its one or two dispatches.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/format.h"
#include "formats/packed/pack.h"
#include "formats/packed/packed.h"
#include "metal/linear.h"
#include "support/metal_kernels.h"

namespace subbit::test {

SignMatrix random_signs(int64_t rows, int64_t cols, uint64_t seed);

/// Floats whose chunks spread over exponents, so that shifts and drops all occur; or all codes at
/// their largest in every chunk.
enum class Values { kNormal, kSpread, kLargest };
std::vector<float> make_values(size_t count, Values kind, uint64_t seed);

/// A packed linear on both sides: its tensor, and the parts of it that kernels bind.
struct Packed {
  std::vector<std::byte> bytes;
  std::unique_ptr<Weight> weight;
  PackedView view;
};

Packed make_packed(const PackedLinear& linear);

/// Which of the optional vectors a linear carries.
enum class Extras { kNone, kBiasAndMidScale };
/// One factored term of random signs; `seed` tells linears apart.
PackedLinear factored(Shape shape, int64_t rank, Extras extras, uint64_t seed = 0);

/// Grid and threadgroup memory of a sign kernel; `kernel` says whether tokens go four at a time.
Dispatch gemv_dispatch(const std::string& kernel, const shader::GemvArgs& args, uint32_t threads,
                       uint32_t tokens);

/// A factored linear's two dispatches; the second one's epilogue is the caller's.
struct TwoStages {
  TwoStages(const Packed& packed, const std::vector<uint32_t>& qvecs, uint32_t tokens);

  uint32_t tokens;
  uint32_t rank;
  uint32_t columns;
  ExactBuffer<std::byte> v;
  ExactBuffer<std::byte> u;
  ExactBuffer<uint32_t> input;
  ExactBuffer<uint32_t> rank_qvecs;
  ExactBuffer<uint32_t> status;
  ExactBuffer<Half> s_mid;
  ExactBuffer<Half> s_post;
  ExactBuffer<float> bias;
  shader::GemvArgs second{};
  shader::EpilogueArgs epilogue{};

  void run_first(const std::string& prefix);
  /// Into `targets`, which stand between bias and status in the kernel's list; `outputs` are the
  /// indices of those that it writes.
  void run_second(const std::string& kernel, uint32_t threads, const std::vector<Binding>& targets,
                  std::vector<size_t> outputs);
};

/// The CPU's y (+)= W x for codes that exist already.
std::vector<float> cpu_linear(const Packed& packed, const QuantizedRows& codes,
                              const std::vector<float>& rho, std::vector<float> y, OutputMode mode);

std::span<const uint32_t> bits_of(const std::vector<float>& values);

}  // namespace subbit::test
