// A GpuDevice that computes nothing: host memory, and a record of what it was told.
#pragma once

#include <string>
#include <vector>

#include "backend/gpu/device.h"

namespace subbit::test {

class PlainMemory final : public GpuMemory {
 public:
  explicit PlainMemory(std::span<std::byte> bytes) : GpuMemory(bytes) {}
  explicit PlainMemory(std::vector<std::byte> owned) : GpuMemory(owned), owned_(std::move(owned)) {}

 private:
  std::vector<std::byte> owned_;
};

class PlainPipeline final : public GpuPipeline {
 public:
  uint32_t max_threads() const override { return 1024; }
};

class PlainCommands final : public GpuCommands {
 public:
  void pipeline(const GpuPipeline&) override {}
  void bind(int, const GpuSlice&) override {}
  void bytes(int, std::span<const std::byte>) override {}
  void threadgroup_memory(int, uint32_t) override {}
  void dispatch(GridSize, GridSize) override {}
  void barrier() override {}
  void run() override {}
  void drop() override {}
};

class PlainDevice final : public GpuDevice {
 public:
  explicit PlainDevice(uint64_t max_buffer_bytes = uint64_t{1} << 30) {
    facts_.max_buffer_bytes = max_buffer_bytes;
    facts_.page_bytes = 4096;
  }
  const GpuFacts& facts() const override { return facts_; }
  std::unique_ptr<GpuMemory> map(std::span<std::byte> pages) override {
    ++maps;
    return std::make_unique<PlainMemory>(pages);
  }
  std::unique_ptr<GpuMemory> allocate(uint64_t bytes) override {
    ++allocations;
    return std::make_unique<PlainMemory>(std::vector<std::byte>(bytes));
  }
  const GpuPipeline& pipeline(std::string_view) override { return pipeline_; }
  std::vector<std::string_view> kernels() override { return {}; }
  GpuCommands& begin() override { return commands_; }

  int maps = 0;
  int allocations = 0;

 private:
  GpuFacts facts_;
  PlainPipeline pipeline_;
  PlainCommands commands_;
};

}  // namespace subbit::test
