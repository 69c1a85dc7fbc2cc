// The trial: whether the kernels that a model runs are right, each by itself (selftest/), whether
// all of them together answer as the processor does (answers.h), and which are the fastest.
#include "runtime/device_trial.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "base/error.h"
#include "runtime/answers.h"
#include "runtime/inspect.h"
#include "runtime/verdicts.h"
#include "selftest/kernel_trial.h"

namespace subbit {
namespace {

const char* kv_name(KvCacheType kv) {
  if (kv == KvCacheType::kF32) return " f32";
  return kv == KvCacheType::kI8 ? " int8" : " f16";
}

/// What a verdict about a model holds for: its shape, and every format in it.
std::string kind_of(OpenedModel& opened, KvCacheType kv) {
  const ModelConfig& config = opened.model().config();
  std::vector<std::string> formats;
  for (const InspectedTensor& tensor : inspect(opened.checkpoint()).tensors) {
    formats.push_back(tensor.format);
  }
  std::ranges::sort(formats);
  // Not std::ranges::unique: clang 14 cannot read libstdc++'s.
  formats.erase(std::unique(formats.begin(), formats.end()), formats.end());
  std::string kind = config.model_type + " " + std::to_string(config.hidden_size) + " " +
                     std::to_string(config.head_dim) + kv_name(kv);
  for (const std::string& format : formats) kind += "|" + format;
  return kind;
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

using KernelNames = std::set<std::string, std::less<>>;

std::string joined(const KernelNames& kernels) {
  std::string text;
  for (const std::string& kernel : kernels) text += (text.empty() ? "" : " ") + kernel;
  return text;
}

/// "right", or the names of those that are not.
std::string judged_kernels(const std::shared_ptr<GpuDevice>& device, ThreadPool& pool) {
  KernelNames wrong;
  for (const JudgedKernel& kernel : judge_kernels(device, pool)) {
    if (kernel.verdict == JudgedKernel::Verdict::kWrong) wrong.insert(kernel.name);
  }
  return wrong.empty() ? "right" : std::string(kWrong) + joined(wrong);
}

/// The device's kernels that are wrong: judged once for a chip, a system and an engine. Where no
/// file remembers, the process does.
KernelNames wrong_kernels(const std::shared_ptr<GpuDevice>& device, const Verdicts& verdicts,
                          ThreadPool& pool) {
  static std::mutex mutex;
  static std::map<std::string, std::string> judged;
  const std::string key = verdict_key(device->facts(), "kernels");
  std::string known = verdicts.recall(key);
  if (known.empty()) {
    const std::lock_guard lock(mutex);
    std::string& here = judged[key];
    if (here.empty()) here = judged_kernels(device, pool);
    verdicts.remember(key, here);
    known = here;
  }
  if (!known.starts_with(kWrong)) return {};
  std::istringstream names(known.substr(kWrong.size()));
  return {std::istream_iterator<std::string>(names), std::istream_iterator<std::string>()};
}

class Trial {
 public:
  Trial(const std::shared_ptr<GpuDevice>& device, KernelNames wrong, KvCacheType kv,
        OpenedModel& opened, ThreadPool& pool)
      : device_(device),
        wrong_(std::move(wrong)),
        kv_(kv_type(kv)),
        opened_(opened),
        context_(opened.model().config().max_position_embeddings) {
    const std::unique_ptr<Backend> cpu = make_cpu_backend(pool);
    reference_ = answer(opened.model(), *cpu, kv_, context_);
    otherwise_rounded_ = answer(opened.model(), *otherwise_rounding(*cpu), kv_, context_);
  }

  struct Times {
    double prompt_ms = std::numeric_limits<double>::infinity();
    double decode_ms = std::numeric_limits<double>::infinity();
    bool passed() const { return std::isfinite(prompt_ms); }
  };

  /// Infinities where a kernel or the answers are wrong or a kernel cannot be had; `why` then says
  /// how.
  Times run(const GpuPolicy& policy, std::string& why) {
    const auto recorder = std::make_shared<RecordingDevice>(device_);
    const std::unique_ptr<GpuBackend> backend = make_gpu_backend(recorder, policy);
    for (const auto& mapping : opened_.checkpoint().mappings()) backend->share(mapping);
    std::string wrong;
    Answers given;
    try {
      given = answer(opened_.model(), *backend, kv_, context_);
      wrong = disagreement(reference_, otherwise_rounded_, given);
    } catch (const Error& error) {
      const bool kernel =
          error.code() == ErrorCode::kNonFinite || error.code() == ErrorCode::kDeviceUnavailable;
      if (!kernel) throw;
      wrong = error.what();
    }
    KernelNames culprits;
    std::ranges::set_intersection(recorder->used(), wrong_,
                                  std::inserter(culprits, culprits.end()));
    if (!culprits.empty()) {
      wrong = "these kernels compute other numbers than the processor: " + joined(culprits);
    }
    if (wrong.empty()) return {given.prompt_ms, given.decode_ms};
    why = wrong;
    return {};
  }

 private:
  std::shared_ptr<GpuDevice> device_;
  KernelNames wrong_;
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
  const Verdicts verdicts(options.verdicts);
  const std::string key = verdict_key(device->facts(), kind_of(opened, options.kv_cache));
  const std::string known = verdicts.recall(key);
  for (const auto sign : {SignKernel::kPopcount, SignKernel::kSelect}) {
    for (const auto prompt : {PromptKernel::kColumns, PromptKernel::kMatrix}) {
      GpuPolicy policy = start;
      policy.sign_kernel = sign;
      policy.prompt_kernel = prompt;
      if (known == policy_name(policy)) return policy;
    }
  }
  if (known.starts_with(kWrong)) {
    throw refused(known + " (remembered in " + verdicts.path() + ")");
  }
  Trial trial(device, wrong_kernels(device, verdicts, pool), options.kv_cache, opened, pool);
  try {
    const GpuPolicy policy = fastest(trial, start);
    verdicts.remember(key, policy_name(policy));
    return policy;
  } catch (const Refused& wrong) {
    verdicts.remember(key, std::string(kWrong) + wrong.why);
    throw refused(wrong.why);
  }
}

}  // namespace subbit
