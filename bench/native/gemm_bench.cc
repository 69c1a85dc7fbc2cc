// How fast the GEMM is, against the fused multiply-add peak of the same cores measured in the same
// breath. Each round takes the fastest of a few samples of some milliseconds, of the peak and of
// the shape in turn, so that a neighbour on the same processors is mostly left out; the table holds
// medians over the rounds.
// Usage: gemm_bench [--json] [--threads 1,2] [--rounds 7]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "base/processor.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "linalg/gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace subbit {
namespace {

// 24 independent chains cover latency times width of every core so far (4 cycles x 2..4 pipes).
constexpr int kChains = 24;

#if defined(__x86_64__)

__attribute__((target("avx512f"))) float chains_avx512(int64_t steps) {
  __m512 sums[kChains];
  for (auto& sum : sums) sum = _mm512_set1_ps(1.0f);
  const __m512 x = _mm512_set1_ps(0.999f);
  const __m512 y = _mm512_set1_ps(0.001f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_fmadd_ps(sums[c], x, y);
  }
  __m512 total = sums[0];
  for (const auto& sum : sums) total = _mm512_add_ps(total, sum);
  return _mm512_cvtss_f32(total);
}

// Twelve chains: with sixteen registers more would spill.
__attribute__((target("avx2,fma"))) float chains_avx2(int64_t steps) {
  __m256 sums[12];
  for (auto& sum : sums) sum = _mm256_set1_ps(1.0f);
  const __m256 x = _mm256_set1_ps(0.999f);
  const __m256 y = _mm256_set1_ps(0.001f);
  for (int64_t i = 0; i < 2 * steps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < 12; ++c) sums[c] = _mm256_fmadd_ps(sums[c], x, y);
  }
  __m256 total = sums[0];
  for (const auto& sum : sums) total = _mm256_add_ps(total, sum);
  return _mm256_cvtss_f32(total);
}

#elif defined(__aarch64__)

float chains_neon(int64_t steps) {
  float32x4_t sums[kChains];
  for (auto& sum : sums) sum = vdupq_n_f32(1.0f);
  const float32x4_t x = vdupq_n_f32(0.999f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) sums[c] = vfmaq_f32(x, sums[c], x);
  }
  float32x4_t total = sums[0];
  for (const auto& sum : sums) total = vaddq_f32(total, sum);
  return vgetq_lane_f32(total, 0);
}

#endif

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Multiply-adds per second of `pool`'s threads together, in units of 1e9 floating-point
/// operations.
double peak_gflops(ThreadPool& pool) {
  constexpr int64_t kSteps = 200000;
  double lanes = 0;
  float (*chains)(int64_t) = nullptr;
#if defined(__x86_64__)
  if (has_avx2()) lanes = 8, chains = chains_avx2;
  if (has_avx512()) lanes = 16, chains = chains_avx512;
#elif defined(__aarch64__)
  lanes = 4, chains = chains_neon;
#endif
  if (chains == nullptr) return 0;
  std::vector<float> kept(static_cast<size_t>(pool.threads()));
  const auto start = Clock::now();
  pool.parallel_for(pool.threads(), 1, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) kept[static_cast<size_t>(i)] = chains(kSteps);
  });
  const double seconds = seconds_since(start);
  volatile float sink = kept[0];
  (void)sink;
  return 2.0 * lanes * kChains * kSteps * pool.threads() / seconds * 1e-9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

constexpr int kSamples = 8;

struct BenchShape {
  int64_t m, n, k;
  GemmOperand::Type weights;
};

struct Result {
  double gflops = 0;
  double fraction = 0;
  double spread = 0;  // of the fraction: (largest - smallest) / median
};

Result measure(const BenchShape& shape, ThreadPool& pool, int rounds) {
  Buffer<float> a(shape.m * shape.k);
  Buffer<float> b(shape.n * shape.k);
  Buffer<float> c(shape.m * shape.n, 0.0f);
  Rng rng(1);
  for (float& x : a.span()) x = static_cast<float>(rng.uniform()) - 0.5f;
  // Any bits of a small number serve as bfloat16 too.
  for (float& x : b.span()) x = static_cast<float>(rng.uniform()) - 0.5f;
  // As a linear layer has it: activations [m, k], weights [n, k].
  const GemmOperand left(ConstMatrix(a.data(), shape.m, shape.k));
  GemmOperand right(ConstMatrix(b.data(), shape.n, shape.k), Transpose::kYes);
  right.type = shape.weights;
  const Matrix out(c.data(), shape.m, shape.n);
  const double work = 2.0 * static_cast<double>(shape.m) * static_cast<double>(shape.n) *
                      static_cast<double>(shape.k);
  const int repeats = std::max(1, static_cast<int>(2e8 / work));
  std::vector<double> speeds;
  std::vector<double> fractions;
  gemm(left, right, out, Accumulate::kOverwrite, pool);
  for (int round = 0; round < rounds; ++round) {
    double peak = 0;
    double speed = 0;
    for (int sample = 0; sample < kSamples; ++sample) {
      peak = std::max(peak, peak_gflops(pool));
      const auto start = Clock::now();
      for (int i = 0; i < repeats; ++i) gemm(left, right, out, Accumulate::kOverwrite, pool);
      speed = std::max(speed, work * repeats / seconds_since(start) * 1e-9);
    }
    speeds.push_back(speed);
    fractions.push_back(peak > 0 ? speed / peak : 0);
  }
  const auto [low, high] = std::minmax_element(fractions.begin(), fractions.end());
  const double middle = median(fractions);
  return {median(speeds), middle, middle > 0 ? (*high - *low) / middle : 0};
}

int run(int argc, char** argv) {
  bool json = false;
  int rounds = 7;
  std::vector<int> thread_counts{1, 2};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") json = true;
    if (argument == "--rounds" && i + 1 < argc) rounds = std::max(1, std::atoi(argv[++i]));
    if (argument == "--threads" && i + 1 < argc) {
      thread_counts.clear();
      for (char* word = std::strtok(argv[++i], ","); word; word = std::strtok(nullptr, ","))
        thread_counts.push_back(std::max(1, std::atoi(word)));
    }
  }
  using enum GemmOperand::Type;
  const std::vector<BenchShape> shapes{{1024, 1024, 1024, kF32}, {255, 288, 768, kF32},
                                       {255, 768, 288, kF32},    {2048, 288, 288, kF32},
                                       {288, 288, 1600, kF32},   {288, 1600, 288, kF32},
                                       {16, 4096, 4096, kF32},   {64, 4096, 4096, kBF16},
                                       {5, 288, 288, kF32},      {1, 2048, 2048, kF32}};
  if (!json)
    std::printf("kernel %s; median of %d rounds\n%5s %5s %5s  %-4s %7s %9s %8s %7s\n",
                gemm_kernel_name(), rounds, "m", "n", "k", "W", "threads", "GFLOP/s", "of peak",
                "spread");
  const char* separator = "[";
  for (const int threads : thread_counts) {
    ThreadPool pool(threads);
    for (const BenchShape& shape : shapes) {
      const Result result = measure(shape, pool, rounds);
      const char* type = shape.weights == kF32 ? "F32" : "BF16";
      const auto m = static_cast<long long>(shape.m), n = static_cast<long long>(shape.n),
                 k = static_cast<long long>(shape.k);
      if (json) {
        std::printf(
            "%s{\"bench\":\"gemm\",\"kernel\":\"%s\",\"m\":%lld,\"n\":%lld,\"k\":%lld,"
            "\"weights\":\"%s\",\"threads\":%d,\"gflops\":%.2f,\"fraction_of_peak\":%.4f,"
            "\"spread\":%.4f}",
            separator, gemm_kernel_name(), m, n, k, type, threads, result.gflops, result.fraction,
            result.spread);
        separator = ",\n ";
      } else {
        std::printf("%5lld %5lld %5lld  %-4s %7d %9.1f %7.1f%% %6.1f%%\n", m, n, k, type, threads,
                    result.gflops, 100 * result.fraction, 100 * result.spread);
      }
    }
  }
  if (json) std::printf("]\n");
  return 0;
}

}  // namespace
}  // namespace subbit

int main(int argc, char** argv) { return subbit::run(argc, argv); }
