// One function per stage. Bounds are on the safe side where a tighter one would have to know what
// the data says: all targets are counted as if every window were read, all blocks as if each were
// as large as the largest.
#include "compress/compression_memory.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "compress/effort.h"
#include "compress/sensitivity.h"
#include "compress/tune/gradient_moments.h"
#include "compress/tune/teacher.h"
#include "memory/plan_memory.h"

namespace subbit {
namespace {

constexpr double kFloat = 4.0;
/// Rows of a pass: tune/student.cc.
constexpr double kPassRows = 512.0;
constexpr double kTapeBytes = 512.0 * 1024.0 * 1024.0;
/// measure_speeds() streams 32 MiB and multiplies three small matrices.
constexpr double kSpeedBytes = 37e6;
/// For what the allocator holds beside what it was asked for.
constexpr double kHeapShare = 1.05;

/// Widths of the model, and what comes of them.
struct Sizes {
  CostCounts counts;
  double wide = 0;
  double mixed = 0;
  double rows_most = 0;     // of a linear
  double columns_most = 0;  // of a linear
  double window = 0;        // tokens of the longest

  /// Floats of activations for a token, logits left out.
  double activations() const { return 2.0 * counts.hidden + wide + mixed + 1.0; }
  /// Floats that a tape saves of a token in a block (tape_backend.h).
  double tape() const { return 4.0 * counts.hidden + 2.0 * (wide + mixed); }
  /// Columns of the head that a window asks for, at most.
  double head_columns() const { return std::min(counts.vocab, 32.0 * window + 512.0); }
};

Sizes sizes_of(const CostRequest& request) {
  Sizes sizes;
  sizes.counts = count_work(request);
  const ActivationWidths widths = request.model->activation_widths();
  sizes.wide = static_cast<double>(widths.wide);
  sizes.mixed = static_cast<double>(widths.mixed);
  for (const BlockPlan& block : request.plan->blocks) {
    const auto look = [&](Shape shape) {
      sizes.rows_most = std::max(sizes.rows_most, static_cast<double>(shape.rows));
      sizes.columns_most = std::max(sizes.columns_most, static_cast<double>(shape.cols));
    };
    for (const LinearPlan& linear : block.linears) look(linear.size.shape);
    for (const KeptLinear& kept : block.kept) look(kept.spec->shape);
  }
  sizes.window = std::ceil(sizes.counts.window);
  return sizes;
}

/// What operations take for themselves while `rows` tokens pass through a block of floats.
double operation_scratch(const Sizes& sizes, double rows) {
  BackendWork work;
  work.tokens = static_cast<int64_t>(rows);
  work.widest_input = static_cast<int64_t>(sizes.columns_most);
  work.widest_output = static_cast<int64_t>(sizes.rows_most);
  return static_cast<double>(cpu_scratch_bytes(work)) + kFloat * rows * sizes.rows_most;
}

/// The uncompressed model on a tape, its weights as floats on the way back, logits over all.
double gradients(const CostRequest& request, const Sizes& sizes) {
  if (request.gradient_windows == 0) return 0.0;
  const CostCounts& counts = sizes.counts;
  const double rows = std::min(sizes.window, static_cast<double>(kGradientTokens));
  const double logits = rows * counts.vocab;
  const double weights = counts.body_weights + counts.end_weights;
  const double tape = rows * counts.layers * sizes.tape();
  const double activations = 2.0 * (rows * sizes.activations() + logits);
  return kFloat * (weights + tape + activations + 2.0 * logits + 2.0 * rows * counts.kv) +
         operation_scratch(sizes, rows);
}

/// Windows at a block's begin and at another's, one window's activations and logits, targets by the
/// likeliest, and a linear twice as floats.
double sensitivity(const CostRequest& request, const Sizes& sizes) {
  if (request.sensitivity_windows == 0) return 0.0;
  const CostCounts& counts = sizes.counts;
  const double rows = std::min(sizes.window, static_cast<double>(kSensitivityTokens));
  const double tokens = rows * static_cast<double>(request.sensitivity_windows);
  const double window = kFloat * (2.0 * rows * sizes.activations() + 4.0 * rows * counts.kv +
                                  2.0 * kLogitRows * counts.vocab);
  const double linear = kFloat * (2.0 * sizes.rows_most * sizes.columns_most);
  return 2.0 * tokens * counts.hidden + 280.0 * tokens + window + linear +
         operation_scratch(sizes, rows);
}

double fit_work(const BlockPlan& block) {
  double most = 0;
  double signs = 0;
  double covariances = 0;
  for (const LinearPlan& linear : block.linears) {
    const auto m = static_cast<double>(linear.size.shape.rows);
    const auto n = static_cast<double>(linear.size.shape.cols);
    const double r =
        linear.size.terms.empty() ? 0.0 : static_cast<double>(linear.size.terms[0].rank);
    most = std::max(most, kFloat * (4.0 * m * n + 6.0 * r * (m + n) + 3.0 * r * r));
    signs += signs_of(linear);
    if (r == 0.0) covariances += kFloat * n * n;
  }
  return most + signs + covariances;
}

/// The streams of hidden states as halves, a window on its way through the block, and the linear at
/// work or the block in training: its weights moving, standing in the state and the best of it.
double blocks(const CostRequest& request, const Sizes& sizes) {
  const CostCounts& counts = sizes.counts;
  const bool trains = request.blocks.trains();
  const auto tokens = static_cast<double>(request.calibration.tokens);
  const double streams = 2.0 * (trains ? 2.0 : 1.0) * tokens * counts.hidden;
  const double window = kFloat * sizes.window * (sizes.activations() + 2.0 * counts.kv);
  double work = 0;
  for (const BlockPlan& block : request.plan->blocks) work = std::max(work, fit_work(block));
  if (trains) {
    const double tape = kFloat * sizes.window * (sizes.tape() + 2.0 * counts.hidden);
    work += 28.0 * counts.largest_block + window + tape + operation_scratch(sizes, sizes.window);
  }
  return streams + 2.0 * window + work + operation_scratch(sizes, sizes.window);
}

/// What every tuned map keeps for `rows` tokens, and saves of them on the tape.
double map_bytes(const CostRequest& request, double rows) {
  double bytes = 0;
  for (const BlockPlan& block : request.plan->blocks) {
    for (const LinearPlan& linear : block.linears) {
      const auto m = static_cast<double>(linear.size.shape.rows);
      const auto n = static_cast<double>(linear.size.shape.cols);
      double rank = 0;
      for (const PackedSize::Term& term : linear.size.terms)
        rank = std::max(rank, static_cast<double>(term.rank));
      bytes += rows * (kFloat * std::max({m, n, rank}) + 4.0 * m + 2.0 * rank);
      bytes += rows * 2.0 * (rank + n + 1.0);
    }
  }
  return bytes;
}

/// Embedding and head as they move: levels with their moments, codes as they began, are and were
/// best, and the gradients of the rows that a step touches, which grow by doubling.
double end_tuning(const CostRequest& request, const Sizes& sizes, double rows) {
  double weights = 0;
  for (const size_t i : moving_ends(*request.plan, request.tune))
    weights += static_cast<double>(request.plan->ends[i].shape.count());
  if (weights == 0) return 0.0;
  const double touched = sizes.head_columns() + rows;
  return (12.0 + 2.5) * weights +
         kFloat * sizes.counts.hidden * (sizes.head_columns() + 2.0 * touched);
}

/// Targets and the teacher; and either what it writes with, beside latents with their moments and
/// the model in signs as it began, or a pass of the student, whose gradients are then there too,
/// and the model as it is and was best.
double tune(const CostRequest& request, const Sizes& sizes) {
  if (request.tune.steps == 0) return 0.0;
  const CostCounts& counts = sizes.counts;
  const double tape_row = kFloat * counts.layers * sizes.tape();
  const double rows = std::max(sizes.window, std::min(kPassRows, kTapeBytes / tape_row));
  const double columns = sizes.head_columns();
  const auto tokens = static_cast<double>(request.calibration.tokens + request.tune.teacher_tokens);
  const double targets = 280.0 * tokens;
  const double teacher = kFloat * (sizes.window * (sizes.activations() + 2.0 * counts.kv) +
                                   kLogitRows * counts.vocab) +
                         operation_scratch(sizes, sizes.window);
  const double places = 2.0 * kFloat * (rows * sizes.activations() + sizes.window * columns);
  const double pass = rows * tape_row + map_bytes(request, rows) +
                      kFloat * columns * (counts.hidden + 2.0 * sizes.window) +
                      operation_scratch(sizes, rows);
  const auto window = static_cast<int64_t>(sizes.window);
  const auto sequences =
      static_cast<double>(std::min(sequences_in_step(request.model->config(), window),
                                   request.tune.teacher_tokens / std::max<int64_t>(1, window)));
  const double sequence =
      2.0 * counts.layers * sizes.window * counts.kv + counts.vocab + sizes.activations();
  const double writing = request.tune.teacher_tokens == 0
                             ? 0.0
                             : (14.0 + 2.0) * counts.signs + end_tuning(request, sizes, rows) +
                                   kFloat * sequences * sequence;
  const double learning =
      (18.0 + 4.0) * counts.signs + places + pass + end_tuning(request, sizes, rows);
  return targets + teacher + std::max(writing, learning);
}

/// Both models read the text that nothing was trained on, with keys and values as floats.
double judge(const Sizes& sizes) {
  const CostCounts& counts = sizes.counts;
  const double rows = std::min(sizes.window, 128.0);
  const double model = 2.0 * counts.layers * counts.kv * sizes.window + rows * sizes.activations() +
                       32.0 * counts.vocab;
  return 2.0 * (kFloat * model + operation_scratch(sizes, rows));
}

}  // namespace

CompressMemory plan_compression_memory(const CostRequest& request) {
  const Sizes sizes = sizes_of(request);
  CompressMemory memory;
  memory.original = request.original_bytes;
  // As fitted, as tuned (where the ends are, too), and as written.
  memory.result = 2 * request.plan->body_bytes + request.plan->file_bytes;
  const ProcessBytes process = process_bytes(request.process);
  memory.process = process.process;
  memory.threads = process.threads;
  memory.tokenizer = request.process.tokenizer_bytes;
  for (const PlainTensor& end : request.plan->ends)
    memory.ends += static_cast<uint64_t>(end.spec.bytes());
  if (request.tune.steps > 0)
    for (const size_t i : moving_ends(*request.plan, request.tune))
      memory.result += static_cast<uint64_t>(request.plan->ends[i].spec.bytes());
  // In JavaScript and here.
  memory.text = 8 * static_cast<uint64_t>(request.calibration.tokens);
  const auto add = [&](const char* name, double bytes) {
    if (bytes > 0.0) memory.stages.push_back({name, static_cast<uint64_t>(kHeapShare * bytes)});
  };
  add("prepare", kSpeedBytes);
  add("sensitivity", sensitivity(request, sizes));
  add("gradients", gradients(request, sizes));
  add("blocks", blocks(request, sizes));
  add("tune", tune(request, sizes));
  add("judge", judge(sizes));
  return memory;
}

void check_compression_memory(const CompressMemory& memory, const MemoryLimit& limit) {
  if (memory.private_bytes() <= limit.bytes) return;
  const auto text = [](uint64_t bytes) { return std::to_string(bytes); };
  std::vector<ErrorDetail> details = {
      {"expected", "at most " + text(limit.bytes) + " bytes (" + limit.source + ")"},
      {"actual", text(memory.private_bytes()) + " bytes beside the files"},
      {"limit_bytes", text(limit.bytes)},
      {"limit_source", limit.source},
      {"peak_bytes", text(memory.peak())},
      {"private_bytes", text(memory.private_bytes())},
      {"original_bytes", text(memory.original)},
      {"result_bytes", text(memory.result)},
      {"process_bytes", text(memory.process)},
      {"threads_bytes", text(memory.threads)},
      {"tokenizer_bytes", text(memory.tokenizer)},
      {"ends_bytes", text(memory.ends)},
      {"text_bytes", text(memory.text)}};
  for (const StageBytes& stage : memory.stages)
    details.emplace_back("stage_" + stage.name + "_bytes", text(stage.bytes));
  throw Error(ErrorCode::kInsufficientMemory, "the compression would not fit in memory",
              std::move(details));
}

}  // namespace subbit
