// Whether a GPU's kernels compute what the processor computes, kernel by kernel: small exact jobs,
// where a model's own answers (runtime/answers.h) would hide a wrong column among roundings.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "backend/gpu/device.h"
#include "base/thread_pool.h"

namespace subbit {

struct JudgedKernel {
  enum class Verdict {
    kUnjudged,  // no job needs it, or what fails with it is another's fault
    kRight,
    kWrong,
  };
  std::string name;
  Verdict verdict = Verdict::kUnjudged;
  std::string why;  // it is not right
};

/// A device that hands everything to another, and notes which kernels it was asked for.
class RecordingDevice final : public GpuDevice {
 public:
  explicit RecordingDevice(std::shared_ptr<GpuDevice> inner) : inner_(std::move(inner)) {}

  const std::set<std::string, std::less<>>& used() const { return used_; }
  const GpuFacts& facts() const override { return inner_->facts(); }
  std::unique_ptr<GpuMemory> map(std::span<std::byte> pages) override { return inner_->map(pages); }
  std::unique_ptr<GpuMemory> allocate(uint64_t bytes) override { return inner_->allocate(bytes); }
  const GpuPipeline& pipeline(std::string_view kernel) override {
    used_.emplace(kernel);
    return inner_->pipeline(kernel);
  }
  std::vector<std::string_view> kernels() override { return inner_->kernels(); }
  GpuCommands& begin() override { return inner_->begin(); }

 private:
  std::shared_ptr<GpuDevice> inner_;
  std::set<std::string, std::less<>> used_;
};

/// A verdict for each kernel of the device, in its order. Throws what the device throws that is no
/// kernel's fault: kDeviceLost, kInsufficientMemory.
std::vector<JudgedKernel> judge_kernels(const std::shared_ptr<GpuDevice>& device, ThreadPool& pool);

}  // namespace subbit
