// A model ready to answer: its engine thread, its one KV cache, and what each request does.
#include <algorithm>
#include <chrono>
#include <utility>

#include "base/arena.h"
#include "base/check.h"
#include "base/process.h"
#include "decoding/decoder.h"
#include "decoding/evaluate.h"
#include "decoding/sampler.h"
#include "engine.h"
#include "formats/signs/sign_dot.h"
#include "runtime/devices.h"
#include "runtime/engine_thread.h"
#include "runtime/inspect.h"
#include "runtime/memory_estimate.h"
#include "runtime/opened_model.h"

namespace subbit {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// Wall and processor time since it was made.
class Stopwatch {
 public:
  double wall_ms() const { return ms_since(start_); }
  double cpu_ms() const { return 1e3 * (process_cpu_seconds() - cpu_start_); }

 private:
  Clock::time_point start_ = Clock::now();
  double cpu_start_ = process_cpu_seconds();
};

void check_context(const LoadRequest& request, int64_t trained) {
  if (request.context_length >= 0 && request.context_length <= trained) return;
  throw Error(
      ErrorCode::kInvalidOption, "the context length",
      {{"expected", "1 to " + std::to_string(trained) + ", what the model was trained with"},
       {"actual", std::to_string(request.context_length)}});
}

MemoryRequest memory_request(const LoadRequest& request) {
  MemoryRequest out;
  out.path = request.path;
  out.threads = request.threads;
  out.context_length = request.context_length;
  out.kv_cache = request.kv_cache;
  out.budget = request.memory_budget;
  out.tokenizer_bytes = request.tokenizer_bytes;
  out.device = request.device;
  return out;
}

/// The plan, with a context that fits where the caller lets it shrink; from headers, before
/// anything of the model is mapped. The reference path unpacks weights and is not planned for.
MemoryEstimate planned(const LoadRequest& request) {
  MemoryRequest memory = memory_request(request);
  memory.process_bytes = process_memory().resident;  // once: two plans must speak of one process
  MemoryEstimate estimate = estimate_memory(memory);
  check_context(request, estimate.trained_context_length);
  if (estimate.fits() || request.over_limit == OverLimit::kIgnore || request.unpack_to_float) {
    return estimate;
  }
  if (request.over_limit == OverLimit::kThrow || estimate.max_context_length == 0) {
    refuse_for_memory(estimate);
  }
  memory.context_length = estimate.max_context_length;
  return estimate_memory(memory);
}

class LoadedModelImpl final : public LoadedModel {
 public:
  LoadedModelImpl(const LoadRequest& request, JobControl& control);
  ~LoadedModelImpl() override { dispose(); }

  const ModelFacts& facts() const override { return facts_; }
  void generate(GenerateRequest request, std::shared_ptr<JobControl> control,
                std::function<void(int32_t)> on_token,
                std::function<void(const GenerateResult&, const Error*)> on_done) override;
  void score(std::vector<int32_t> tokens, std::shared_ptr<JobControl> control,
             std::function<void(const ScoreResult&, const Error*)> on_done) override;
  void fill_context(int64_t tokens, std::shared_ptr<JobControl> control,
                    std::function<void(const Error*)> on_done) override;
  MemoryReport memory() const override;
  void trim(Trim what, std::shared_ptr<JobControl> control,
            std::function<void(uint64_t, const Error*)> on_done) override;
  void dispose() override { thread_.stop(); }

 private:
  void run_generate(const GenerateRequest& request, const JobControl& control,
                    const std::function<void(int32_t)>& on_token, GenerateResult& result);
  /// What of a token's logits is kept: all of them, or which is the largest.
  enum class Wanted { kLogits, kArgmax };
  void prefill(const GenerateRequest& request, Wanted wanted, const JobControl& control,
               GenerateResult& result);
  void forward(std::span<const int32_t> tokens, Wanted wanted, const JobControl& control);

  Clock::time_point started_ = Clock::now();
  MemoryEstimate estimate_;
  OpenedModel opened_;
  Arena arena_;  // before what holds scratch in it
  ThreadPool pool_;
  ChosenDevice device_;
  Decoder decoder_;
  std::vector<int32_t> cached_;  // the tokens whose keys and values the decoder holds
  std::vector<float> logits_;    // of the last forward call's last token, if wanted
  int32_t likeliest_ = -1;       // else the argmax of them
  std::atomic<uint64_t> kv_cache_used_{0};
  ModelFacts facts_;
  EngineThread thread_;  // last: stops before what it uses is destroyed
};

LoadedModelImpl::LoadedModelImpl(const LoadRequest& request, JobControl& control)
    : estimate_(planned(request)),
      opened_(request.path, request.unpack_to_float, control),
      arena_(estimate_.activations + estimate_.scratch),
      pool_(resolve_threads(request.threads)),
      device_(choose_device(request, opened_, pool_)),
      decoder_(opened_.model(), *device_.backend,
               {estimate_.context_length, kv_type(request.kv_cache), &arena_}) {
  const ModelConfig& config = opened_.model().config();
  const Inspection inspection = inspect(opened_.checkpoint());
  facts_.architecture = config.model_type;
  facts_.parameters = inspection.parameters;
  facts_.context_length = decoder_.context_length();
  facts_.trained_context_length = config.max_position_embeddings;
  facts_.vocab_size = config.vocab_size;
  facts_.layers = config.num_hidden_layers;
  facts_.hidden_size = config.hidden_size;
  facts_.bits_per_weight_body = inspection.bits_per_weight_body;
  facts_.bits_per_weight_file = inspection.bits_per_weight_file;
  facts_.file_bytes = inspection.bytes;
  facts_.bos_token_ids = config.bos_token_ids;
  facts_.eos_token_ids = config.eos_token_ids;
  facts_.threads = pool_.threads();
  facts_.device = device_.facts;
  facts_.weight_bytes_per_token = weight_bytes_per_token(opened_.checkpoint());
  facts_.kv_bytes_per_position = decoder_.kv_bytes_per_position();
  facts_.load_ms = ms_since(started_);
}

void LoadedModelImpl::generate(GenerateRequest request, std::shared_ptr<JobControl> control,
                               std::function<void(int32_t)> on_token,
                               std::function<void(const GenerateResult&, const Error*)> on_done) {
  EngineThread::Task task;
  task.control = control;
  task.refuse = [on_done](const Error& error) { on_done({}, &error); };
  task.run = [this, request = std::move(request), control, on_token = std::move(on_token),
              on_done] {
    GenerateResult result;
    try {
      run_generate(request, *control, on_token, result);
    } catch (...) {
      const Error error = current_error();
      on_done(result, &error);
      return;
    }
    on_done(result, nullptr);
  };
  thread_.post(std::move(task));
}

void LoadedModelImpl::score(std::vector<int32_t> tokens, std::shared_ptr<JobControl> control,
                            std::function<void(const ScoreResult&, const Error*)> on_done) {
  EngineThread::Task task;
  task.control = control;
  task.refuse = [on_done](const Error& error) { on_done({}, &error); };
  task.run = [this, tokens = std::move(tokens), control, on_done] {
    ScoreResult result;
    try {
      cached_.clear();
      with_unchanged(opened_.checkpoint(), [&] {
        result.logprobs = next_token_logprobs(decoder_, tokens, control->abort, pool_);
      });
    } catch (...) {
      const Error error = current_error();
      on_done(result, &error);
      return;
    }
    on_done(result, nullptr);
  };
  thread_.post(std::move(task));
}

void LoadedModelImpl::fill_context(int64_t tokens, std::shared_ptr<JobControl> control,
                                   std::function<void(const Error*)> on_done) {
  EngineThread::Task task;
  task.control = control;
  task.refuse = [on_done](const Error& error) { on_done(&error); };
  task.run = [this, tokens, control, on_done] {
    try {
      cached_.clear();
      decoder_.fill(tokens, control->abort);
      with_unchanged(opened_.checkpoint(), [&] { opened_.checkpoint().touch(); });
      cached_.assign(static_cast<size_t>(tokens), 0);
      kv_cache_used_ = decoder_.kv_cache_used();
    } catch (...) {
      const Error error = current_error();
      on_done(&error);
      return;
    }
    on_done(nullptr);
  };
  thread_.post(std::move(task));
}

MemoryReport LoadedModelImpl::memory() const {
  MemoryReport report;
  report.planned = estimate_;
  report.process = process_memory();
  report.kv_cache_used = kv_cache_used_.load(std::memory_order_relaxed);
  report.arena_planned = arena_.planned();
  report.arena_extent = arena_.extent();
  report.arena_overflow = arena_.overflow();
  return report;
}

void LoadedModelImpl::trim(Trim what, std::shared_ptr<JobControl> control,
                           std::function<void(uint64_t, const Error*)> on_done) {
  EngineThread::Task task;
  task.control = control;
  task.refuse = [on_done](const Error& error) { on_done(0, &error); };
  task.run = [this, what, on_done] {
    if (what == Trim::kForgetContext) {
      decoder_.rewind(0);
      cached_.clear();
    }
    const uint64_t bytes = decoder_.trim();
    kv_cache_used_ = decoder_.kv_cache_used();
    release_free_heap();
    on_done(bytes, nullptr);
  };
  thread_.post(std::move(task));
}

void LoadedModelImpl::forward(std::span<const int32_t> tokens, Wanted wanted,
                              const JobControl& control) {
  with_unchanged(opened_.checkpoint(), [&] {
    if (wanted == Wanted::kArgmax) {
      likeliest_ = decoder_.next(tokens, control.abort);
      return;
    }
    decoder_.forward(tokens, LogitRows::kLast, control.abort, [this](int64_t, Matrix logits) {
      logits_.assign(logits.row(0), logits.row(0) + logits.cols);
    });
  });
  cached_.insert(cached_.end(), tokens.begin(), tokens.end());
  kv_cache_used_.store(decoder_.kv_cache_used(), std::memory_order_relaxed);
}

void LoadedModelImpl::prefill(const GenerateRequest& request, Wanted wanted,
                              const JobControl& control, GenerateResult& result) {
  const auto& prompt = request.prompt;
  size_t shared = static_cast<size_t>(
      std::mismatch(prompt.begin(), prompt.end(), cached_.begin(), cached_.end()).first -
      prompt.begin());
  // At least two tokens are computed again: a single row takes the matrix-vector path, whose float
  // sums differ in the last bit from the GEMM's, and a prompt asked twice must give one text.
  shared = std::min(shared, prompt.size() < 2 ? 0 : prompt.size() - 2);
  decoder_.rewind(static_cast<int64_t>(shared));
  cached_.resize(shared);
  result.prompt_tokens = static_cast<int64_t>(prompt.size());
  result.cached_tokens = static_cast<int64_t>(shared);
  const Stopwatch watch;
  forward(std::span(prompt).subspan(shared), wanted, control);
  result.prefill_ms = watch.wall_ms();
  result.prefill_cpu_ms = watch.cpu_ms();
}

void LoadedModelImpl::run_generate(const GenerateRequest& request, const JobControl& control,
                                   const std::function<void(int32_t)>& on_token,
                                   GenerateResult& result) {
  if (request.prompt.empty()) throw Error(ErrorCode::kInvalidOption, "the prompt has no tokens");
  if (control.abort) throw Error(ErrorCode::kAborted, "aborted");
  Sampler sampler({request.temperature, request.top_k, request.top_p, request.min_p,
                   request.repetition_penalty, request.presence_penalty, request.frequency_penalty,
                   request.logit_bias, request.seed});
  const Wanted wanted = sampler.is_argmax() ? Wanted::kArgmax : Wanted::kLogits;
  prefill(request, wanted, control, result);
  sampler.observe(request.prompt);
  const Stopwatch watch;
  while (result.generated_tokens < request.max_tokens) {
    if (control.abort) throw Error(ErrorCode::kAborted, "aborted");
    const int32_t token = wanted == Wanted::kArgmax ? likeliest_ : sampler.sample(logits_);
    result.decode_ms = watch.wall_ms();
    if (std::ranges::find(request.stop_tokens, token) != request.stop_tokens.end()) {
      result.finish_reason = FinishReason::kStop;
      return;
    }
    ++result.generated_tokens;
    on_token(token);
    if (result.generated_tokens == request.max_tokens) break;
    if (decoder_.position() == decoder_.context_length()) {
      result.finish_reason = FinishReason::kContext;
      return;
    }
    sampler.observe({&token, 1});
    forward({&token, 1}, wanted, control);
  }
  result.decode_ms = watch.wall_ms();
  result.decode_cpu_ms = watch.cpu_ms();
}

}  // namespace

uint64_t peak_memory_bytes() { return peak_resident_bytes(); }

std::shared_ptr<LoadedModel> LoadedModel::load(const LoadRequest& request, JobControl& control) {
  if (!choose_prompt_kernel(request.prompt_kernel)) {
    std::string known;
    for (const std::string_view name : prompt_kernels())
      known += (known.empty() ? "" : ", ") + std::string(name);
    throw Error(
        ErrorCode::kInvalidOption, "this machine has no such kernel for prompts",
        {{"option", "promptKernel"}, {"expected", known}, {"actual", request.prompt_kernel}});
  }
  return {new LoadedModelImpl(request, control), [](LoadedModelImpl* model) {
            delete model;
            release_free_heap();
          }};
}

}  // namespace subbit
