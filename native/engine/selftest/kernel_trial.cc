// Telling which kernel is wrong. A job takes several, and fails when one of them is wrong; most
// kernels serve in several jobs. A wrong one fails all of its own, so a failed job is blamed on the
// kernel whose jobs failed the most often, and of equals on that with more jobs to its name.
#include "selftest/kernel_trial.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "base/error.h"
#include "selftest/kernel_cases.h"

namespace subbit {
namespace {

/// Empty where the GPU's values are the processor's; else what is wrong.
std::string difference(const Scene& reference, const Scene& given) {
  if (reference.index != given.index) return "it does not find the largest logit";
  for (size_t i = 0; i < reference.results().size(); ++i) {
    const auto& [a, tolerance] = reference.results()[i];
    const Tensor& b = given.results()[i].values;
    double square = 0;
    double worst = 0;
    for (int64_t t = 0; t < a.rows; ++t) {
      for (int64_t c = 0; c < a.cols; ++c) {
        const double wanted = a.data[t * a.stride + c];
        const double apart = std::fabs(b.data[t * b.stride + c] - wanted);
        square += wanted * wanted;
        if (!(apart <= worst)) worst = apart;  // nor is what is no number
      }
    }
    const double size = std::sqrt(square / static_cast<double>(a.rows * a.cols));
    if (worst <= tolerance * size) continue;
    return "differs from the processor by " + std::to_string(worst) + " where values are " +
           std::to_string(size);
  }
  return "";
}

struct Outcome {
  std::set<std::string, std::less<>> kernels;
  std::string wrong;  // empty: right
};

Outcome try_case(const KernelCase& one, const std::shared_ptr<GpuDevice>& device, Backend& cpu) {
  Scene reference;
  one.run(cpu, reference);
  cpu.finish();
  const auto recorder = std::make_shared<RecordingDevice>(device);
  Outcome outcome;
  try {
    const std::unique_ptr<GpuBackend> gpu = make_gpu_backend(recorder, one.policy);
    Scene scene;
    gpu->share(scene.memory());
    one.run(*gpu, scene);
    gpu->finish();
    outcome.wrong = difference(reference, scene);
  } catch (const Error& error) {
    const bool kernel =
        error.code() == ErrorCode::kNonFinite || error.code() == ErrorCode::kDeviceUnavailable;
    if (!kernel) throw;
    outcome.wrong = error.what();
  }
  if (!outcome.wrong.empty()) outcome.wrong = one.name + ": " + outcome.wrong;
  outcome.kernels = recorder->used();
  return outcome;
}

struct Record {
  int jobs = 0;
  int failed = 0;
  std::string blamed_for;

  /// More suspicious than another.
  bool operator>(const Record& other) const {
    const int a = failed * other.jobs;
    const int b = other.failed * jobs;
    return a != b ? a > b : failed > other.failed;
  }
};

using Records = std::map<std::string, Record, std::less<>>;

void blame(Records& records, const Outcome& outcome) {
  Record* most = nullptr;
  for (const std::string& kernel : outcome.kernels) {
    Record& record = records[kernel];
    if (most == nullptr || record > *most) most = &record;
  }
  if (most != nullptr && most->blamed_for.empty()) most->blamed_for = outcome.wrong;
}

JudgedKernel judged(std::string_view kernel, const Records& records) {
  using Verdict = JudgedKernel::Verdict;
  const std::string name(kernel);
  const auto found = records.find(kernel);
  if (found == records.end()) return {name, Verdict::kUnjudged, "no model runs it"};
  const Record& record = found->second;
  if (!record.blamed_for.empty()) return {name, Verdict::kWrong, record.blamed_for};
  if (record.failed < record.jobs) return {name, Verdict::kRight, ""};
  return {name, Verdict::kUnjudged, "whatever needs it needs another kernel that is wrong"};
}

}  // namespace

std::vector<JudgedKernel> judge_kernels(const std::shared_ptr<GpuDevice>& device,
                                        ThreadPool& pool) {
  const std::unique_ptr<Backend> cpu = make_cpu_backend(pool);
  std::vector<Outcome> outcomes;
  for (const KernelCase& one : kernel_cases()) outcomes.push_back(try_case(one, device, *cpu));
  Records records;
  for (const Outcome& outcome : outcomes) {
    for (const std::string& kernel : outcome.kernels) {
      ++records[kernel].jobs;
      if (!outcome.wrong.empty()) ++records[kernel].failed;
    }
  }
  for (const Outcome& outcome : outcomes) {
    if (!outcome.wrong.empty()) blame(records, outcome);
  }
  std::vector<JudgedKernel> verdicts;
  for (const std::string_view kernel : device->kernels()) {
    verdicts.push_back(judged(kernel, records));
  }
  return verdicts;
}

}  // namespace subbit
