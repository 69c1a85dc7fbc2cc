// One function per stage. The factors between operations and time were fitted once, on stories15M
// and stories260K; the times they give are short on matrices as small as those.
#include "compress/cost.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>

#include "base/buffer.h"
#include "base/half.h"
#include "compress/block.h"
#include "compress/compression_memory.h"
#include "compress/fit/coded/coded.h"
#include "compress/tune/distillation.h"
#include "formats/term.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// The best of several runs: what others do on the machine only ever takes time.
template <typename Work>
double best_seconds(const Work& work) {
  constexpr int kRuns = 5;
  double best = 1e9;
  work();  // pages in, and wakes the threads
  for (int i = 0; i < kRuns; ++i) {
    const Clock::time_point begin = Clock::now();
    work();
    best = std::min(best, seconds_since(begin));
  }
  return best;
}

/// Products with keys and values of half the window, on average.
double attention_operations(const CostCounts& counts) {
  return 2.0 * counts.window * counts.hidden * counts.layers;
}

double calibrate_seconds(const CostRequest& request, const CostCounts& counts,
                         const MachineSpeeds& speeds) {
  const double passes = request.blocks.trains() ? 2.0 : 1.0;  // of the original
  const double a_token = passes * (2.0 * counts.body_weights + attention_operations(counts)) +
                         2.0 * counts.signs + attention_operations(counts);
  constexpr double kShare = 0.35;  // of the GEMM's speed: attention and norms are slower
  return static_cast<double>(request.calibration.tokens) * a_token / (kShare * speeds.gemm);
}

/// To find the nearest of 256 entries for so many weights, once.
double search_seconds(double weights, const MachineSpeeds& speeds) {
  constexpr double kShare = 0.3;
  return weights * 2.0 * static_cast<double>(kTableEntries) / (kShare * speeds.gemm);
}

/// Of one coded linear: a search a round, and making up for its errors column by column.
double coded_fit_seconds(const LinearPlan& linear, const MachineSpeeds& speeds) {
  const auto weights = static_cast<double>(linear.size.shape.count());
  const auto columns = static_cast<double>(linear.size.shape.cols);
  constexpr double kShare = 0.3;
  return kCodedRounds *
         (search_seconds(weights, speeds) + weights * columns / (kShare * speeds.gemm));
}

/// Of one linear: two Gram matrices, two products with the target, two Cholesky factorizations and
/// solves an iteration (lb_admm.h); and some 60 bytes an element of passing over the factors.
double fit_seconds(const LinearPlan& linear, int iterations, const MachineSpeeds& speeds) {
  if (linear.size.terms.empty()) return 0.0;
  if (is_coded(linear.size)) return coded_fit_seconds(linear, speeds);
  const auto m = static_cast<double>(linear.size.shape.rows);
  const auto n = static_cast<double>(linear.size.shape.cols);
  const auto r = static_cast<double>(linear.size.terms[0].rank);
  const double operations =
      2.0 * (m + n) * r * r + 4.0 * m * n * r + 2.0 / 3.0 * r * r * r + 2.0 * r * r * (m + n);
  constexpr double kShare = 0.6;
  return iterations * (operations / (kShare * speeds.gemm) + 60.0 * r * (m + n) / speeds.stream);
}

double training_seconds(const CostRequest& request, const MachineSpeeds& speeds) {
  double seconds = 0;
  for (const BlockPlan& block : request.plan->blocks) {
    double weights = 0;
    for (const LinearPlan& linear : block.linears)
      weights += static_cast<double>(linear.size.shape.count());
    const auto linears = static_cast<double>(block.linears.size());
    const auto tokens = [&](const StageTraining& training, double times) {
      return times * static_cast<double>(training.updates * training.tokens);
    };
    const double trained = tokens(request.blocks.absorb, linears) +
                           tokens(request.blocks.refine, linears) +
                           tokens(request.blocks.together, 1.0);
    seconds += trained * 6.0 * weights / (0.5 * speeds.gemm);
  }
  return seconds;
}

double sample_seconds(const CostRequest& request, const CostCounts& counts,
                      const MachineSpeeds& speeds) {
  const double a_token = 2.0 * (counts.body_weights + counts.end_weights);
  return static_cast<double>(request.tune.teacher_tokens) * a_token / (0.3 * speeds.gemm);
}

double tune_seconds(const CostRequest& request, const CostCounts& counts,
                    const MachineSpeeds& speeds) {
  if (request.tune.steps == 0) return 0.0;
  const double window = std::max(1.0, counts.window);
  const double tokens =
      std::ceil(static_cast<double>(request.tune.tokens_per_step) / window) * window;
  const double columns = std::min(counts.vocab, window + 512.0);
  const double a_token =
      6.0 * counts.signs / speeds.gemm_bfloat16 +
      (6.0 * columns * counts.hidden + 3.0 * attention_operations(counts)) / speeds.gemm;
  const double steps = static_cast<double>(request.tune.steps);
  const double read = std::min(steps * tokens, static_cast<double>(request.calibration.tokens));
  const double teacher = read * 2.0 * (counts.body_weights + counts.end_weights) / speeds.gemm;
  constexpr double kShare = 0.4;
  return (steps * tokens * a_token + teacher) / kShare +
         steps * (40.0 * counts.signs / speeds.stream + search_seconds(counts.coded, speeds));
}

double gradient_seconds(const CostRequest& request, const CostCounts& counts,
                        const MachineSpeeds& speeds) {
  const double tokens = static_cast<double>(request.gradient_windows) * counts.window;
  return tokens * 6.0 * (counts.body_weights + counts.end_weights) / (0.5 * speeds.gemm);
}

/// Half the model, on average, and the head for every linear.
double sensitivity_seconds(const CostRequest& request, const CostCounts& counts,
                           const MachineSpeeds& speeds) {
  double linears = 0;
  for (const BlockPlan& block : request.plan->blocks)
    linears += static_cast<double>(block.linears.size() + block.kept.size());
  const double tokens = static_cast<double>(request.sensitivity_windows) *
                        std::min(counts.window, static_cast<double>(kSensitivityTokens));
  constexpr double kShare = 0.35;  // as for calibration
  return linears * tokens * (counts.body_weights + 2.0 * counts.end_weights) /
         (kShare * speeds.gemm);
}

}  // namespace

double signs_of(const LinearPlan& linear) {
  double signs = 0;
  for (const PackedSize::Term& term : linear.size.terms) {
    const auto rows = static_cast<double>(linear.size.shape.rows);
    const auto columns = static_cast<double>(term.columns);
    signs += term.rank > 0 ? static_cast<double>(term.rank) * (rows + columns) : rows * columns;
  }
  return signs;
}

CostCounts count_work(const CostRequest& request) {
  const ModelConfig& config = request.model->config();
  CostCounts counts;
  for (const BlockPlan& block : request.plan->blocks) {
    double weights = 0;
    for (const LinearPlan& linear : block.linears) {
      weights += static_cast<double>(linear.size.shape.count());
      counts.signs += signs_of(linear);
      if (is_coded(linear.size)) counts.coded += static_cast<double>(linear.size.shape.count());
    }
    counts.largest_block = std::max(counts.largest_block, weights);
  }
  counts.body_weights = static_cast<double>(request.plan->body_weights);
  counts.hidden = static_cast<double>(config.hidden_size);
  counts.layers = static_cast<double>(config.num_hidden_layers);
  counts.kv = static_cast<double>(config.num_key_value_heads * config.head_dim);
  counts.vocab = static_cast<double>(config.vocab_size);
  counts.end_weights = counts.hidden * counts.vocab;
  const CalibrationSize& text = request.calibration;
  counts.window =
      static_cast<double>(text.tokens) / static_cast<double>(std::max<int64_t>(1, text.windows));
  return counts;
}

MachineSpeeds measure_speeds(ThreadPool& pool) {
  constexpr int64_t kSize = 384;
  constexpr int64_t kStreamed = int64_t{8} << 20;
  constexpr double kOperations = 2.0 * kSize * kSize * kSize;
  Buffer<float> floats(3 * kSize * kSize, 0.5f);
  Buffer<BFloat16> narrow(2 * kSize * kSize, to_bfloat16(0.5f));
  const Matrix c(floats.data() + 2 * kSize * kSize, kSize, kSize);
  MachineSpeeds speeds;
  speeds.gemm = kOperations / best_seconds([&] {
                  const ConstMatrix a(floats.data(), kSize, kSize);
                  const ConstMatrix b(floats.data() + kSize * kSize, kSize, kSize);
                  gemm(a, b, c, Accumulate::kOverwrite, pool);
                });
  speeds.gemm_bfloat16 =
      kOperations / best_seconds([&] {
        const MatrixView<const BFloat16> a(narrow.data(), kSize, kSize);
        const MatrixView<const BFloat16> b(narrow.data() + kSize * kSize, kSize, kSize);
        gemm(a, b, c, Accumulate::kOverwrite, pool);
      });
  Buffer<float> streamed(kStreamed, 1.0f);
  speeds.stream = 8.0 * static_cast<double>(kStreamed) / best_seconds([&] {
                    pool.parallel_for(kStreamed, 65536, [&](Range range) {
                      for (int64_t i = range.begin; i < range.end; ++i)
                        streamed.data()[i] = 1.0f - streamed.data()[i];
                    });
                  });
  return speeds;
}

PredictedCost predict_cost(const CostRequest& request, const MachineSpeeds& speeds) {
  const CostCounts counts = count_work(request);
  PredictedCost cost;
  cost.effort = request.effort;
  const auto add = [&](const char* name, double seconds) {
    if (seconds <= 0.0) return;
    cost.stages.push_back({name, 1000.0 * seconds});
    cost.ms += 1000.0 * seconds;
  };
  double fits = 0;
  for (const BlockPlan& block : request.plan->blocks)
    for (const LinearPlan& linear : block.linears)
      fits += fit_seconds(linear, request.fit_iterations, speeds);
  add("sensitivity", sensitivity_seconds(request, counts, speeds));
  add("gradients", gradient_seconds(request, counts, speeds));
  add("calibrate", calibrate_seconds(request, counts, speeds));
  add("fit", fits);
  add("tune blocks", training_seconds(request, speeds));
  add("sample", sample_seconds(request, counts, speeds));
  add("tune", tune_seconds(request, counts, speeds));
  cost.memory = plan_compression_memory(request);
  return cost;
}

}  // namespace subbit
