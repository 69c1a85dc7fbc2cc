// How well, how fast and in how much memory the compressor fits the linears of a block of a large
// model, without having one: weights with the spectrum of trained ones, inputs that are skewed and
// correlated, both made from a seed. Each linear is reported when it is done, so that a run may be
// cut short; what is known by then is extrapolated to a whole model at every effort.
//
// Usage: block_shapes_bench [--shape 7b|1b|small] [--linears qkv,o,gate_up,down] [--bits 0.8]
//                           [--iterations 40] [--threads 2] [--gflops 1500] [--json]
// --iterations  of the factorization; time per iteration does not depend on it, the error does
// --gflops      predict the time on another machine from the rate of its GEMM as well
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "compress/fit/factored/factored.h"
#include "formats/packed/layout.h"
#include "formats/packed/pack.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

struct ModelShape {
  const char* name;
  int64_t hidden;
  int64_t ffn;
  int64_t blocks;
};
constexpr ModelShape kModels[] = {
    {"7b", 4096, 11008, 32}, {"1b", 2048, 5632, 22}, {"small", 256, 704, 32}};

/// Singular value i of k is exp(-decay * i / k) times a constant. Fitted to SmolLM2-135M: there the
/// values at 10, 25, 50 and 75 % of the way are 1.7, 1.1, 0.58 and 0.22 of their root mean square
/// in attention, and 1.46, 1.17, 0.86 and 0.6 in the MLP.
constexpr double kAttentionDecay = 2.9;
constexpr double kMlpDecay = 1.4;

struct LinearShape {
  std::string name;
  Shape shape;
  double decay;
};

std::vector<LinearShape> linears_of(const ModelShape& model) {
  const int64_t h = model.hidden;
  return {{"o", {h, h}, kAttentionDecay},
          {"qkv", {3 * h, h}, kAttentionDecay},
          {"down", {h, model.ffn}, kMlpDecay},
          {"gate_up", {2 * model.ffn, h}, kMlpDecay}};
}

struct Effort {
  const char* name;
  int iterations;  // as compress.cc has them
};
constexpr Effort kEfforts[] = {{"fast", 40}, {"balanced", 150}, {"max", 150}};

struct Arguments {
  ModelShape model = kModels[0];
  std::string linears;  // comma-separated; empty: all
  double bits = 0.8;
  int iterations = 40;
  int threads = ThreadPool::default_threads();
  double other_gflops = 0.0;
  bool json = false;
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Processor time of all threads together. Over the number of threads it is what the wall would say
/// on a machine that does nothing else, as long as all threads are busy; so rates are taken from
/// it.
double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// The most memory the process ever held, bytes.
uint64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

// ---- what is fitted -----------------------------------------------------------------------------

/// Multiplies every row of `m` by the same orthogonal matrix: thrice a shuffle, random signs and a
/// Hadamard transform of blocks as long as the columns allow. n log n, where a dense one costs n^2.
void mix_columns(Matrix m, uint64_t seed, ThreadPool& pool) {
  Rng rng(seed);
  int64_t block = 1;
  while (m.cols % (2 * block) == 0) block *= 2;
  std::vector<int64_t> order(static_cast<size_t>(m.cols));
  std::vector<float> signs(static_cast<size_t>(m.cols));
  for (int round = 0; round < 3; ++round) {
    std::iota(order.begin(), order.end(), int64_t{0});
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<size_t>(rng.uniform() * static_cast<double>(i))]);
    const float norm = 1.0f / std::sqrt(static_cast<float>(block));
    for (float& sign : signs) sign = rng.uniform() < 0.5 ? -norm : norm;
    pool.parallel_for(m.rows, 4, [&](Range range) {
      std::vector<float> row(static_cast<size_t>(m.cols));
      for (int64_t i = range.begin; i < range.end; ++i) {
        for (size_t j = 0; j < row.size(); ++j) row[j] = m.at(i, order[j]) * signs[j];
        for (int64_t half = 1; half < block; half *= 2)
          for (int64_t start = 0; start < m.cols; start += 2 * half)
            for (int64_t j = start; j < start + half; ++j) {
              const float a = row[static_cast<size_t>(j)];
              const float b = row[static_cast<size_t>(j + half)];
              row[static_cast<size_t>(j)] = a + b;
              row[static_cast<size_t>(j + half)] = a - b;
            }
        std::copy(row.begin(), row.end(), &m.at(i, 0));
      }
    });
  }
}

void transpose(ConstMatrix from, Matrix to, ThreadPool& pool) {
  pool.parallel_for(to.rows, 16, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i)
      for (int64_t j = 0; j < to.cols; ++j) to.at(i, j) = from.at(j, i);
  });
}

/// A diagonal of decaying singular values, turned on both sides. Elements have unit variance.
Buffer<float> synthetic_weights(const LinearShape& linear, uint64_t seed, ThreadPool& pool) {
  const auto [rows, cols] = linear.shape;
  Buffer<float> turned(rows * cols, 0.0f);
  const Matrix columns_first(turned.data(), cols, rows);
  const int64_t k = std::min(rows, cols);
  double squares = 0.0;
  for (int64_t i = 0; i < k; ++i) {
    const double value = std::exp(-linear.decay * static_cast<double>(i) / static_cast<double>(k));
    columns_first.at(i, i) = static_cast<float>(value);
    squares += value * value;
  }
  const auto scale = static_cast<float>(std::sqrt(static_cast<double>(rows * cols) / squares));
  for (float& x : turned.span()) x *= scale;
  mix_columns(columns_first, seed, pool);
  Buffer<float> values(rows * cols);
  const Matrix weights(values.data(), rows, cols);
  transpose(columns_first, weights, pool);
  mix_columns(weights, seed + 1, pool);
  return values;
}

/// Inputs as SmolLM2-135M's linears have them: columns' sizes log-normal (0.3 to 0.55 there), a few
/// with 40 to 600 times the mean square, and 0.6 to 0.8 of the correlation matrix's trace in its
/// first sixteenth of eigenvalues, 0.15 to 0.35 in its first four.
constexpr float kSizeSpread = 0.4f;
constexpr float kOutlier = 12.0f;
constexpr int64_t kColumnsPerOutlier = 512;
constexpr double kFirstFactors = 0.2;
constexpr double kOtherFactors = 0.4;

struct Inputs {
  Buffer<float> values;
  int64_t count = 0;
  ConstMatrix matrix(int64_t cols) const { return {values.data(), count, cols}; }
};

Inputs synthetic_inputs(int64_t cols, int64_t count, uint64_t seed, ThreadPool& pool) {
  const int64_t factors = std::max<int64_t>(8, cols / 16);
  Rng shared(seed);  // of every set of inputs to this linear
  std::vector<float> size(static_cast<size_t>(cols));
  for (float& x : size) x = std::exp(kSizeSpread * shared.normal());
  for (int64_t i = 0; i < cols; i += kColumnsPerOutlier)
    size[static_cast<size_t>(shared.uniform() * static_cast<double>(cols))] *= kOutlier;
  Buffer<float> loadings(factors * cols);
  for (int64_t f = 0; f < factors; ++f) {
    const double strength =
        f < 4 ? kFirstFactors / 4 : kOtherFactors / static_cast<double>(factors - 4);
    for (int64_t j = 0; j < cols; ++j)
      loadings[f * cols + j] = static_cast<float>(std::sqrt(strength)) * shared.normal();
  }
  Rng own(seed * 31 + static_cast<uint64_t>(count));
  Buffer<float> scores(count * factors);
  for (float& x : scores.span()) x = own.normal();
  Inputs inputs{Buffer<float>(count * cols), count};
  const auto alone = static_cast<float>(std::sqrt(1.0 - kFirstFactors - kOtherFactors));
  for (float& x : inputs.values.span()) x = alone * own.normal();
  const Matrix out(inputs.values.data(), count, cols);
  gemm(ConstMatrix(scores.data(), count, factors), ConstMatrix(loadings.data(), factors, cols), out,
       Accumulate::kAdd, pool);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < cols; ++j) out.at(i, j) *= size[static_cast<size_t>(j)];
  return inputs;
}

std::vector<float> mean_squares(ConstMatrix x) {
  std::vector<double> sums(static_cast<size_t>(x.cols), 0.0);
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j)
      sums[static_cast<size_t>(j)] += static_cast<double>(x.at(i, j)) * x.at(i, j);
  std::vector<float> means;
  for (const double sum : sums)
    means.push_back(static_cast<float>(sum / static_cast<double>(x.rows)));
  return means;
}

// ---- how well it is fitted ----------------------------------------------------------------------

double squares_of(std::span<const float> values) {
  double sum = 0.0;
  for (const float x : values) sum += static_cast<double>(x) * x;
  return sum;
}

/// ||(W - What) X||^2 / ||W X||^2 over inputs the fit never saw. Leaves W - What in `w`.
double held_out_error(Matrix w, const FactoredFit& fit, const Inputs& inputs, ThreadPool& pool) {
  const ConstMatrix x = inputs.matrix(w.cols);
  Buffer<float> outputs(x.rows * w.rows);
  const Matrix y(outputs.data(), x.rows, w.rows);
  gemm(x, GemmOperand(w, Transpose::kYes), y, Accumulate::kOverwrite, pool);
  const double whole = squares_of(outputs.span());
  const int64_t rank = fit.u.cols;
  Buffer<float> left(w.rows * rank);
  Buffer<float> right(rank * w.cols);
  for (int64_t i = 0; i < w.rows * rank; ++i) {
    const float scale = fit.s_post[static_cast<size_t>(i / rank)];
    left[i] = fit.u.bits[static_cast<size_t>(i)] ? -scale : scale;
  }
  for (int64_t i = 0; i < rank * w.cols; ++i) {
    const float scale = fit.s_pre[static_cast<size_t>(i % w.cols)];
    right[i] = fit.v.bits[static_cast<size_t>(i)] ? scale : -scale;
  }
  gemm(ConstMatrix(left.data(), w.rows, rank), ConstMatrix(right.data(), rank, w.cols), w,
       Accumulate::kAdd, pool);
  gemm(x, GemmOperand(w, Transpose::kYes), y, Accumulate::kOverwrite, pool);
  return squares_of(outputs.span()) / whole;
}

// ---- what it costs ------------------------------------------------------------------------------

/// Floating-point operations of one ADMM iteration: per side a Gram matrix, a right-hand side, a
/// Cholesky factor and two triangular solves.
double iteration_flops(Shape shape, int64_t rank) {
  const auto m = static_cast<double>(shape.rows);
  const auto n = static_cast<double>(shape.cols);
  const auto r = static_cast<double>(rank);
  return 4 * m * n * r + 4 * r * r * (m + n) + 2.0 / 3.0 * r * r * r;
}

/// Beside the weights; stated at fit_factored.
double planned_bytes(Shape shape, int64_t rank) {
  const auto m = static_cast<double>(shape.rows);
  const auto n = static_cast<double>(shape.cols);
  const auto r = static_cast<double>(rank);
  return 4 * (2 * m * n + 4 * r * (m + n) + r * r);
}

/// The largest rank whose packed bytes keep to `bits` a weight.
int64_t rank_for(Shape shape, double bits) {
  int64_t rank = kRankUnit;
  const auto fits = [&](int64_t more) {
    const PackedSize size{shape, false, false, {factored_term(shape, more)}};
    return 8.0 * static_cast<double>(packed_bytes(size)) <=
           bits * static_cast<double>(shape.count());
  };
  while (rank + kRankUnit <= std::min(shape.rows, shape.cols) && fits(rank + kRankUnit))
    rank += kRankUnit;
  return rank;
}

double gemm_gflops(ThreadPool& pool) {
  constexpr int64_t n = 1024;
  constexpr int kRepeats = 8;
  Buffer<float> a(n * n, 0.5f);
  Buffer<float> b(n * n, 0.25f);
  Buffer<float> c(n * n, 0.0f);
  const Matrix out(c.data(), n, n);
  const double start = processor_seconds();
  for (int i = 0; i < kRepeats; ++i)
    gemm(ConstMatrix(a.data(), n, n), ConstMatrix(b.data(), n, n), out, Accumulate::kOverwrite,
         pool);
  return 2.0 * n * n * n * kRepeats * pool.threads() / (processor_seconds() - start) * 1e-9;
}

struct Row {
  LinearShape linear;
  int64_t rank = 0;
  double wall_seconds = 0.0;  // of the whole fit
  // Processor time over threads: of an iteration, and of what does not grow with them.
  double seconds_per_iteration = 0.0;
  double seconds_around = 0.0;
  double gflops = 0.0;
  double gemm_gflops = 0.0;  // measured just before
  double weight_error = 0.0;
  double diagonal_error = 0.0;
  double held_out_error = 0.0;
  uint64_t peak = 0;
};

Row measure(const LinearShape& linear, const Arguments& arguments, ThreadPool& pool) {
  constexpr int64_t kCalibration = 1024;
  constexpr int64_t kHeldOut = 256;
  Row row;
  row.linear = linear;
  row.rank = rank_for(linear.shape, arguments.bits);
  const auto [rows, cols] = linear.shape;
  const auto seed = static_cast<uint64_t>(rows * 131071 + cols);
  Buffer<float> values = synthetic_weights(linear, seed, pool);
  const Matrix w(values.data(), rows, cols);
  std::vector<float> moments;
  {
    const Inputs inputs = synthetic_inputs(cols, kCalibration, seed, pool);
    moments = mean_squares(inputs.matrix(cols));
  }
  row.gemm_gflops = gemm_gflops(pool);
  const auto start = Clock::now();
  const double processor_start = processor_seconds();
  double first = 0.0;
  double last = 0.0;
  const bool is_watched = isatty(STDERR_FILENO) != 0;
  const FactoredFit fit =
      fit_factored(w, {moments, {}}, {row.rank, arguments.iterations, 1}, pool, [&](int t) {
        last = processor_seconds();
        if (t == 0) first = last;
        if (is_watched)
          std::fprintf(stderr, "\r%-8s iteration %d of %d, %.0f s   ", linear.name.c_str(), t,
                       arguments.iterations, seconds_since(start));
      });
  if (is_watched) std::fprintf(stderr, "\r%60s\r", "");
  row.wall_seconds = seconds_since(start);
  const double seconds = (processor_seconds() - processor_start) / pool.threads();
  const int between = arguments.iterations - 1;
  row.seconds_per_iteration = between > 0 ? (last - first) / between / pool.threads() : seconds;
  row.seconds_around = std::max(0.0, seconds - arguments.iterations * row.seconds_per_iteration);
  row.gflops = iteration_flops(linear.shape, row.rank) / row.seconds_per_iteration * 1e-9;
  row.weight_error = fit.weight_error;
  row.diagonal_error = fit.output_error;
  row.peak = peak_bytes();
  row.held_out_error = held_out_error(w, fit, synthetic_inputs(cols, kHeldOut, seed, pool), pool);
  return row;
}

// ---- reports ------------------------------------------------------------------------------------

void print_row(const Row& row, const Arguments& arguments, const char* separator) {
  const Shape shape = row.linear.shape;
  const auto rows = static_cast<long long>(shape.rows);
  const auto cols = static_cast<long long>(shape.cols);
  const auto rank = static_cast<long long>(row.rank);
  const double weights = 4.0 * static_cast<double>(shape.count());
  const double planned = weights + planned_bytes(shape, row.rank);
  if (arguments.json) {
    std::printf(
        "%s{\"linear\":\"%s\",\"rows\":%lld,\"cols\":%lld,\"rank\":%lld,\"iterations\":%d,"
        "\"threads\":%d,\"wall_seconds\":%.2f,\"seconds_per_iteration\":%.4f,\"gflops\":%.2f,"
        "\"gemm_gflops\":%.2f,\"weight_error\":%.4f,\"diagonal_error\":%.4f,"
        "\"held_out_error\":%.4f,\"peak_bytes\":%llu,\"planned_bytes\":%.0f}",
        separator, row.linear.name.c_str(), rows, cols, rank, arguments.iterations,
        arguments.threads, row.wall_seconds, row.seconds_per_iteration, row.gflops, row.gemm_gflops,
        row.weight_error, row.diagonal_error, row.held_out_error,
        static_cast<unsigned long long>(row.peak), planned);
  } else {
    std::printf("%-8s %6lld %6lld %5lld %8.1f %8.3f %8.1f %6.0f%% %7.3f %7.3f %7.3f %8.2f %8.2f\n",
                row.linear.name.c_str(), rows, cols, rank, row.wall_seconds,
                row.seconds_per_iteration, row.gflops, 100 * row.gflops / row.gemm_gflops,
                row.weight_error, row.diagonal_error, row.held_out_error,
                static_cast<double>(row.peak) * 0x1p-30, planned * 0x1p-30);
  }
  std::fflush(stdout);
}

/// From the linears that were fitted, by their share of a block's operations.
void print_whole_model(const std::vector<Row>& rows, const Arguments& arguments) {
  double block_flops = 0.0;
  for (const LinearShape& linear : linears_of(arguments.model))
    block_flops += iteration_flops(linear.shape, rank_for(linear.shape, arguments.bits));
  double flops = 0.0;
  double seconds = 0.0;
  double around = 0.0;
  double gemm = 0.0;
  for (const Row& row : rows) {
    const double own = iteration_flops(row.linear.shape, row.rank);
    flops += own;
    seconds += row.seconds_per_iteration;
    around += row.seconds_around;
    gemm += row.gemm_gflops / static_cast<double>(rows.size());
  }
  const double blocks = static_cast<double>(arguments.model.blocks);
  const double fraction = flops / seconds * 1e-9 / gemm;
  std::printf("\nfits of a whole model, %lld blocks, from %.0f %% of a block's operations:\n",
              static_cast<long long>(arguments.model.blocks), 100 * flops / block_flops);
  for (const Effort& effort : kEfforts) {
    const double hours =
        blocks * block_flops / flops * (effort.iterations * seconds + around) / 3600;
    std::printf("  %-8s %4d iterations, %.3g FLOP: %.2f h here (%d threads)", effort.name,
                effort.iterations, blocks * block_flops * effort.iterations, hours,
                arguments.threads);
    if (arguments.other_gflops > 0.0) {
      std::printf("; %.2f h at %.0f %% of %.0f GFLOP/s",
                  blocks * block_flops * effort.iterations /
                      (arguments.other_gflops * 1e9 * fraction) / 3600,
                  100 * fraction, arguments.other_gflops);
    }
    std::printf("\n");
  }
}

bool names(const std::string& list, const std::string& name) {
  return list.empty() || ("," + list + ",").find("," + name + ",") != std::string::npos;
}

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--json") {
      arguments.json = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const char* value = argv[++i];
    if (argument == "--shape") {
      const auto* model = std::find_if(std::begin(kModels), std::end(kModels), [&](const auto& m) {
        return std::string_view(m.name) == value;
      });
      if (model == std::end(kModels)) return false;
      arguments.model = *model;
    } else if (argument == "--linears") {
      arguments.linears = value;
    } else if (argument == "--bits") {
      arguments.bits = std::atof(value);
    } else if (argument == "--iterations") {
      arguments.iterations = std::max(1, std::atoi(value));
    } else if (argument == "--threads") {
      arguments.threads = std::max(1, std::atoi(value));
    } else if (argument == "--gflops") {
      arguments.other_gflops = std::atof(value);
    } else {
      return false;
    }
  }
  return true;
}

int run(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: block_shapes_bench [--shape 7b|1b|small] [--linears qkv,o,gate_up,down] "
                 "[--bits b] [--iterations n] [--threads n] [--gflops n] [--json]\n");
    return 2;
  }
  ThreadPool pool(arguments.threads);
  std::vector<Row> rows;
  if (!arguments.json) {
    std::printf(
        "%s, %.2f bits, %d iterations, GEMM %s\n%-8s %6s %6s %5s %8s %8s %8s %7s %7s %7s "
        "%7s %8s %8s\n",
        arguments.model.name, arguments.bits, arguments.iterations, gemm_kernel_name(), "linear",
        "rows", "cols", "rank", "seconds", "s/iter.", "GFLOP/s", "of GEMM", "weight", "diag.",
        "output", "peak GiB", "planned");
  }
  const char* separator = "[";
  for (const LinearShape& linear : linears_of(arguments.model)) {
    if (!names(arguments.linears, linear.name)) continue;
    rows.push_back(measure(linear, arguments, pool));
    print_row(rows.back(), arguments, separator);
    separator = ",\n ";
  }
  if (arguments.json)
    std::printf(rows.empty() ? "[]\n" : "]\n");
  else if (!rows.empty())
    print_whole_model(rows, arguments);
  return 0;
}

}  // namespace
}  // namespace subbit

int main(int argc, char** argv) { return subbit::run(argc, argv); }
