// The trial. Both back ends see the same tokens: a prompt in one call, then tokens one by one.
// Their integers are equal; rho, rotations, softmax and silu may differ by roundings, which now and
// then move an 8-bit code by one. Logits are therefore compared as distributions.
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

constexpr int64_t kPromptTokens = 5;
constexpr int64_t kDecodedTokens = 4;
/// Nats. Rounding all activations to eight bits costs 0.0015 on a 15M model; two back ends differ
/// by a few codes among thousands, so anything near that is another answer, not another rounding.
constexpr double kMostDivergence = 1e-3;

struct Answers {
  std::vector<std::vector<float>> logits;
  double decode_ms = 0;  // of the quickest token
};

std::vector<int32_t> trial_tokens(int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < kPromptTokens + kDecodedTokens; ++i) {
    // Spread over the vocabulary; which ones does not matter.
    tokens.push_back(static_cast<int32_t>((i * 7919 + 1) % vocab));
  }
  return tokens;
}

Answers answer(OpenedModel& opened, Backend& backend, KvType kv, int64_t context) {
  using Clock = std::chrono::steady_clock;
  const std::vector<int32_t> tokens = trial_tokens(opened.model().config().vocab_size);
  const auto count = std::min<int64_t>(std::ssize(tokens), context);
  const int64_t prompt = std::min<int64_t>(kPromptTokens, count);
  Decoder decoder(opened.model(), backend, {context, kv});
  const std::atomic<bool> abort{false};
  Answers answers;
  answers.decode_ms = std::numeric_limits<double>::infinity();
  const auto keep = [&](int64_t, Matrix logits) {
    answers.logits.emplace_back(logits.row(0), logits.row(0) + logits.cols);
  };
  const std::span<const int32_t> all(tokens);
  decoder.forward(all.first(static_cast<size_t>(prompt)), LogitRows::kLast, abort, keep);
  for (int64_t i = prompt; i < count; ++i) {
    const auto start = Clock::now();
    decoder.forward(all.subspan(static_cast<size_t>(i), 1), LogitRows::kLast, abort, keep);
    const std::chrono::duration<double, std::milli> took = Clock::now() - start;
    answers.decode_ms = std::min(answers.decode_ms, took.count());
  }
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

/// What follows the key: "popcount", "select", or what was wrong. Empty: never tried.
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

class Trial {
 public:
  Trial(const std::shared_ptr<GpuDevice>& device, KvCacheType kv, OpenedModel& opened,
        ThreadPool& pool)
      : device_(device),
        kv_(kv_type(kv)),
        opened_(opened),
        context_(std::min<int64_t>(16, opened.model().config().max_position_embeddings)) {
    reference_ = answer(opened, *make_cpu_backend(pool), kv_, context_);
  }

  /// Milliseconds a token, or infinity where the answers are wrong; `why` then says how.
  double run(const GpuPolicy& policy, std::string& why) {
    const std::unique_ptr<GpuBackend> backend = make_gpu_backend(device_, policy);
    for (const auto& mapping : opened_.checkpoint().mappings()) backend->share(mapping);
    const Answers given = answer(opened_, *backend, kv_, context_);
    const double worst = worst_divergence(reference_, given);
    if (worst <= kMostDivergence) return given.decode_ms;
    why = "its answers diverge from the processor's by " + std::to_string(worst) + " nats";
    return std::numeric_limits<double>::infinity();
  }

 private:
  std::shared_ptr<GpuDevice> device_;
  KvType kv_;
  OpenedModel& opened_;
  int64_t context_;
  Answers reference_;
};

}  // namespace

GpuPolicy proven_policy(const std::shared_ptr<GpuDevice>& device, const TrialOptions& options,
                        OpenedModel& opened, ThreadPool& pool) {
  GpuPolicy policy = gpu_policy(device->facts().family);
  const std::string key = verdict_key(device->facts(), opened, options.kv_cache);
  const std::string known = recall(options.verdicts, key);
  if (known.empty()) {
    Trial trial(device, options.kv_cache, opened, pool);
    std::string why;
    GpuPolicy select = policy;
    select.sign_kernel = SignKernel::kSelect;
    const double popcount_ms = trial.run(policy, why);
    const double select_ms = trial.run(select, why);
    if (std::isinf(popcount_ms) && std::isinf(select_ms)) {
      remember(options.verdicts, key, "wrong: " + why);
      throw refused(why);
    }
    if (select_ms < popcount_ms) policy = select;
    remember(options.verdicts, key, select_ms < popcount_ms ? "select" : "popcount");
    return policy;
  }
  if (known != "popcount" && known != "select") {
    throw refused(known + " (remembered in " + options.verdicts + ")");
  }
  policy.sign_kernel = known == "select" ? SignKernel::kSelect : SignKernel::kPopcount;
  return policy;
}

}  // namespace subbit
