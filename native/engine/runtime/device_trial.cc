// The trial. Both back ends see the same tokens: a prompt in one call, a few in another, then
// tokens one by one, so that kernels for every size of call have run. Their integers are equal;
// rho, rotations, softmax and silu may differ by roundings, which now and then move an 8-bit code
// by one. Logits are therefore compared as distributions.
#include "runtime/device_trial.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "base/error.h"
#include "decoding/decoder.h"
#include "io/file_writer.h"
#include "runtime/inspect.h"

namespace subbit {
namespace {

/// More than a tile's (kGemmTokens), so that the prompt kernels' times mean something.
constexpr int64_t kPromptTokens = 33;
constexpr int64_t kFewTokens = 3;
constexpr int64_t kDecodedTokens = 4;
constexpr int64_t kTokens = kPromptTokens + kFewTokens + kDecodedTokens;
/// Nats. Rounding all activations to eight bits costs 0.0015 on a 15M model; two back ends differ
/// by a few codes among thousands, so anything near that is another answer, not another rounding.
constexpr double kMostDivergence = 1e-3;

struct Answers {
  std::vector<std::vector<float>> logits;
  double prompt_ms = 0;
  double decode_ms = 0;    // of the quickest token
  int32_t likeliest = -1;  // after the last token, as the back end itself finds it
};

std::vector<int32_t> trial_tokens(int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < kTokens; ++i) {
    // Spread over the vocabulary; which ones does not matter.
    tokens.push_back(static_cast<int32_t>((i * 7919 + 1) % vocab));
  }
  return tokens;
}

Answers answer(OpenedModel& opened, Backend& backend, KvType kv, int64_t context) {
  using Clock = std::chrono::steady_clock;
  const std::vector<int32_t> tokens = trial_tokens(opened.model().config().vocab_size);
  Decoder decoder(opened.model(), backend, {context, kv});
  const std::atomic<bool> abort{false};
  Answers answers;
  answers.decode_ms = std::numeric_limits<double>::infinity();
  const auto keep = [&](int64_t, Matrix logits) {
    answers.logits.emplace_back(logits.row(0), logits.row(0) + logits.cols);
  };
  std::span<const int32_t> left(tokens);
  left = left.first(std::min(left.size(), static_cast<size_t>(context)));
  const auto call = [&](int64_t count) {
    const auto start = Clock::now();
    const auto now = left.first(std::min(left.size(), static_cast<size_t>(count)));
    decoder.forward(now, LogitRows::kLast, abort, keep);
    left = left.subspan(now.size());
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  };
  answers.prompt_ms = call(kPromptTokens);
  if (!left.empty()) call(kFewTokens);
  while (!left.empty()) answers.decode_ms = std::min(answers.decode_ms, call(1));
  const int64_t last = decoder.position() - 1;
  decoder.rewind(last);
  answers.likeliest = decoder.next({&tokens[static_cast<size_t>(last)], 1}, abort);
  return answers;
}

/// KL(softmax(a) || softmax(b)) in nats; infinite where b is not a number.
double divergence(const std::vector<float>& a, const std::vector<float>& b) {
  const auto log_sum = [](const std::vector<float>& x) {
    const double most = *std::ranges::max_element(x);
    double sum = 0;
    for (const float v : x) sum += std::exp(v - most);
    return most + std::log(sum);
  };
  const double a_sum = log_sum(a);
  const double b_sum = log_sum(b);
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double p = std::exp(a[i] - a_sum);
    total += p * ((a[i] - a_sum) - (b[i] - b_sum));
  }
  return std::isfinite(total) ? std::fabs(total) : std::numeric_limits<double>::infinity();
}

double worst_divergence(const Answers& reference, const Answers& given) {
  double worst = 0;
  for (size_t i = 0; i < reference.logits.size(); ++i) {
    worst = std::max(worst, divergence(reference.logits[i], given.logits[i]));
  }
  return worst;
}

/// Whether the back end finds the largest of its own logits.
bool finds_largest(const Answers& given) {
  const std::vector<float>& logits = given.logits.back();
  return std::ranges::max_element(logits) - logits.begin() == given.likeliest;
}

const char* kv_name(KvCacheType kv) {
  if (kv == KvCacheType::kF32) return " f32";
  return kv == KvCacheType::kI8 ? " int8" : " f16";
}

/// What a verdict holds for: one line's beginning.
std::string verdict_key(const GpuFacts& facts, OpenedModel& opened, KvCacheType kv) {
  const ModelConfig& config = opened.model().config();
  std::vector<std::string> formats;
  for (const InspectedTensor& tensor : inspect(opened.checkpoint()).tensors) {
    formats.push_back(tensor.format);
  }
  std::ranges::sort(formats);
  // Not std::ranges::unique: clang 14 cannot read libstdc++'s.
  formats.erase(std::unique(formats.begin(), formats.end()), formats.end());
  std::string key = facts.name + "|" + facts.system + "|" + std::string(engine_version()) + "|" +
                    config.model_type + " " + std::to_string(config.hidden_size) + " " +
                    std::to_string(config.head_dim) + kv_name(kv);
  for (const std::string& format : formats) key += "|" + format;
  std::ranges::replace(key, '\n', ' ');
  std::ranges::replace(key, '\t', ' ');
  return key;
}

std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// What follows the key: a policy_name(), or what was wrong. Empty: never tried.
std::string recall(const std::string& path, const std::string& key) {
  if (path.empty()) return "";
  for (const std::string& line : read_lines(path)) {
    if (line.starts_with(key + "\t")) return line.substr(key.size() + 1);
  }
  return "";
}

void remember(const std::string& path, const std::string& key, const std::string& verdict) {
  if (path.empty()) return;
  try {
    std::vector<std::string> lines = read_lines(path);
    std::erase_if(lines, [&](const std::string& line) { return line.starts_with(key + "\t"); });
    FileWriter writer(path);
    for (const std::string& line : lines) writer.write(line + "\n");
    writer.write(key + "\t" + verdict + "\n");
    writer.commit();
  } catch (const Error&) {
    // A cache that cannot be written costs the trial again next time, and nothing else.
  }
}

Error refused(const std::string& why) {
  return Error(ErrorCode::kDeviceUnavailable, "the GPU did not pass its trial: " + why,
               {{"device", "metal"}, {"reason", why}});
}

constexpr std::string_view kWrong = "wrong: ";

/// Every kernel that could multiply signs gave wrong answers.
struct Refused {
  std::string why;
};

class Trial {
 public:
  Trial(const std::shared_ptr<GpuDevice>& device, KvCacheType kv, OpenedModel& opened,
        ThreadPool& pool)
      : device_(device),
        kv_(kv_type(kv)),
        opened_(opened),
        context_(std::min<int64_t>(kTokens, opened.model().config().max_position_embeddings)) {
    reference_ = answer(opened, *make_cpu_backend(pool), kv_, context_);
  }

  struct Times {
    double prompt_ms = std::numeric_limits<double>::infinity();
    double decode_ms = std::numeric_limits<double>::infinity();
    bool passed() const { return std::isfinite(prompt_ms); }
  };

  /// Infinities where the answers are wrong or a kernel cannot be had; `why` then says how.
  Times run(const GpuPolicy& policy, std::string& why) {
    const std::unique_ptr<GpuBackend> backend = make_gpu_backend(device_, policy);
    for (const auto& mapping : opened_.checkpoint().mappings()) backend->share(mapping);
    Answers given;
    try {
      given = answer(opened_, *backend, kv_, context_);
    } catch (const Error& error) {
      const bool kernel =
          error.code() == ErrorCode::kNonFinite || error.code() == ErrorCode::kDeviceUnavailable;
      if (!kernel) throw;
      why = error.what();
      return {};
    }
    const double worst = worst_divergence(reference_, given);
    if (worst > kMostDivergence) {
      why = "its answers diverge from the processor's by " + std::to_string(worst) + " nats";
      return {};
    }
    if (!finds_largest(given)) {
      why = "it does not find the largest of its own logits";
      return {};
    }
    return {given.prompt_ms, given.decode_ms};
  }

 private:
  std::shared_ptr<GpuDevice> device_;
  KvType kv_;
  OpenedModel& opened_;
  int64_t context_;
  Answers reference_;
};

/// Popcount or select, whichever decodes faster; then columns or matrices for prompts. What gives
/// wrong answers is not chosen; throws where every sign kernel does.
GpuPolicy fastest(Trial& trial, const GpuPolicy& start) {
  std::string why;
  GpuPolicy best = start;
  Trial::Times best_times;
  for (const auto sign : {SignKernel::kPopcount, SignKernel::kSelect}) {
    GpuPolicy policy = start;
    policy.sign_kernel = sign;
    policy.prompt_kernel = PromptKernel::kColumns;
    const Trial::Times times = trial.run(policy, why);
    if (!(times.decode_ms < best_times.decode_ms)) continue;
    best = policy;
    best_times = times;
  }
  if (!best_times.passed()) throw Refused{why};
  GpuPolicy matrices = best;
  matrices.prompt_kernel = PromptKernel::kMatrix;
  const Trial::Times times = trial.run(matrices, why);
  return times.prompt_ms < best_times.prompt_ms ? matrices : best;
}

}  // namespace

GpuPolicy proven_policy(const std::shared_ptr<GpuDevice>& device, const TrialOptions& options,
                        OpenedModel& opened, ThreadPool& pool) {
  const GpuPolicy start = gpu_policy(device->facts().family);
  const std::string key = verdict_key(device->facts(), opened, options.kv_cache);
  const std::string known = recall(options.verdicts, key);
  for (const auto sign : {SignKernel::kPopcount, SignKernel::kSelect}) {
    for (const auto prompt : {PromptKernel::kColumns, PromptKernel::kMatrix}) {
      GpuPolicy policy = start;
      policy.sign_kernel = sign;
      policy.prompt_kernel = prompt;
      if (known == policy_name(policy)) return policy;
    }
  }
  if (known.starts_with(kWrong)) {
    throw refused(known + " (remembered in " + options.verdicts + ")");
  }
  Trial trial(device, options.kv_cache, opened, pool);
  try {
    const GpuPolicy policy = fastest(trial, start);
    remember(options.verdicts, key, policy_name(policy));
    return policy;
  } catch (const Refused& wrong) {
    remember(options.verdicts, key, std::string(kWrong) + wrong.why);
    throw refused(wrong.why);
  }
}

}  // namespace subbit
