// The trial: who answers, how quickly, and what is remembered of it. When answers agree is the
// business of answers.h.
#include "runtime/device_trial.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "base/error.h"
#include "io/file_writer.h"
#include "runtime/answers.h"
#include "runtime/inspect.h"

namespace subbit {
namespace {

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
        context_(opened.model().config().max_position_embeddings) {
    const std::unique_ptr<Backend> cpu = make_cpu_backend(pool);
    reference_ = answer(opened.model(), *cpu, kv_, context_);
    otherwise_rounded_ = answer_otherwise_rounded(opened.model(), *cpu, kv_, context_);
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
      given = answer(opened_.model(), *backend, kv_, context_);
    } catch (const Error& error) {
      const bool kernel =
          error.code() == ErrorCode::kNonFinite || error.code() == ErrorCode::kDeviceUnavailable;
      if (!kernel) throw;
      why = error.what();
      return {};
    }
    const std::string wrong = disagreement(reference_, otherwise_rounded_, given);
    if (!wrong.empty()) {
      why = wrong;
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
  Answers otherwise_rounded_;
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
