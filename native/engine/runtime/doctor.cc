// What this machine offers.
#include <algorithm>
#include <memory>
#include <string>

#include "backend/gpu/kernel_times.h"
#include "base/processor.h"
#include "base/thread_pool.h"
#include "engine.h"
#include "formats/signs/sign_dot.h"
#include "runtime/devices.h"
#include "selftest/kernel_trial.h"

namespace subbit {
namespace {

void add_kernels(GpuDevice& device, DoctorReport& report) {
  for (const std::string_view kernel : device.kernels()) {
    KernelReport one;
    one.name = kernel;
    try {
      one.max_threads = device.pipeline(kernel).max_threads();
    } catch (const Error& error) {
      one.verdict = KernelVerdict::kUnusable;
      one.reason = error.what();
    }
    report.kernels.push_back(std::move(one));
  }
}

void add_verdicts(const std::shared_ptr<GpuDevice>& device, DoctorReport& report) {
  using Verdict = JudgedKernel::Verdict;
  ThreadPool pool(1);
  for (const JudgedKernel& judged : judge_kernels(device, pool)) {
    const auto kernel = std::ranges::find(report.kernels, judged.name, &KernelReport::name);
    if (kernel == report.kernels.end() || kernel->verdict == KernelVerdict::kUnusable) continue;
    if (judged.verdict == Verdict::kRight) kernel->verdict = KernelVerdict::kRight;
    if (judged.verdict == Verdict::kWrong) kernel->verdict = KernelVerdict::kWrong;
    kernel->reason = judged.why;
  }
}

void add_times(const KernelTimes& times, DoctorReport& report) {
  report.gpu_bytes_per_second = times.bytes_per_second;
  report.timed_rows = times.rows;
  for (const KernelTime& time : times.kernels) {
    for (KernelReport& kernel : report.kernels) {
      if (kernel.name != time.kernel) continue;
      kernel.tokens = time.tokens;
      kernel.seconds = time.seconds;
      kernel.bytes_per_second = static_cast<double>(time.bytes) / time.seconds;
    }
  }
}

}  // namespace

DoctorReport doctor() {
  DoctorReport report;
  report.version = engine_version();
  report.sign_kernel = sign_dot_kernel_name();
  report.prompt_kernel = prompt_kernel_name();
  for (const std::string_view name : prompt_kernels()) report.prompt_kernels.emplace_back(name);
  report.performance_cores = performance_cores();
  try {
    const std::shared_ptr<GpuDevice> device = open_gpu();
    const GpuFacts& facts = device->facts();
    report.has_gpu = true;
    report.gpu_name = facts.name;
    report.gpu_system = facts.system;
    report.gpu_family = facts.family;
    report.gpu_max_buffer_bytes = facts.max_buffer_bytes;
    report.gpu_working_set_bytes = facts.working_set_bytes;
    report.gpu_threadgroup_bytes = facts.threadgroup_bytes;
    add_kernels(*device, report);
    add_verdicts(device, report);
    add_times(time_kernels(device), report);
  } catch (const Error& error) {
    report.gpu_reason = error.what();
  }
  return report;
}

}  // namespace subbit
