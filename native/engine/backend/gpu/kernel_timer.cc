// The clock.
#include "backend/gpu/kernel_timer.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

namespace subbit {
namespace {

constexpr int64_t kSmallRows = 128;
constexpr int64_t kLargeRows = 4096;
constexpr double kSlow = 0.002;   // seconds of a small call: no GPU takes so long
constexpr double kEnough = 0.01;  // seconds of a command buffer
constexpr uint64_t kSmallMemory = 1 << 20;
constexpr uint64_t kLargeMemory = 256 << 20;  // beyond every last-level cache

/// Hands on the dispatches of one kernel, and counts them.
class OneKernel final : public GpuCommands {
 public:
  OneKernel(GpuCommands& inner, const GpuPipeline& wanted) : inner_(inner), wanted_(wanted) {}

  int64_t dispatched() const { return dispatched_; }
  void pipeline(const GpuPipeline& pipeline) override {
    passes_ = &pipeline == &wanted_;
    if (passes_) inner_.pipeline(pipeline);
  }
  void bind(int index, const GpuSlice& slice) override {
    if (passes_) inner_.bind(index, slice);
  }
  void bytes(int index, std::span<const std::byte> data) override {
    if (passes_) inner_.bytes(index, data);
  }
  void threadgroup_memory(int index, uint32_t bytes) override {
    if (passes_) inner_.threadgroup_memory(index, bytes);
  }
  void dispatch(GridSize groups, GridSize threads) override {
    if (!passes_) return;
    inner_.dispatch(groups, threads);
    ++dispatched_;
  }
  void barrier() override { inner_.barrier(); }
  void run() override { inner_.run(); }
  void drop() override { inner_.drop(); }

 private:
  GpuCommands& inner_;
  const GpuPipeline& wanted_;
  bool passes_ = false;
  int64_t dispatched_ = 0;
};

/// Whatever happens, a command buffer is done with: a kernel may not be had.
struct Spent {
  GpuCommands& commands;
  ~Spent() { commands.drop(); }
};

void encode_calls(GpuEncoder& encoder, GpuCommands& commands, int64_t calls,
                  const KernelTimer::Encode& encode) {
  encoder.stream().commands = &commands;
  encoder.stream().hazards.clear();
  for (int64_t n = 0; n < calls; ++n) encode(encoder, n);
}

}  // namespace

KernelTimer::KernelTimer(std::shared_ptr<GpuDevice> device)
    : device_(std::move(device)), token_(device_->allocate(256)) {
  std::ranges::fill(token_->bytes(), std::byte{0});
  make_operands(kSmallRows, kSmallMemory);
}

void KernelTimer::grow() { make_operands(kLargeRows, kLargeMemory); }

bool KernelTimer::is_small() const { return rows_ == kSmallRows; }

void KernelTimer::make_operands(int64_t rows, uint64_t memory) {
  rows_ = rows;
  weights_ = device_->allocate(memory);
  // Small positive numbers in every format.
  std::ranges::fill(weights_->bytes(), std::byte{0x2E});
  cache_ = Buffer<float>(2 * rows_ * positions(), 0.0f);
  activations_ = Buffer<float>(2 * 128 * rows_);
  for (int64_t i = 0; i < activations_.size(); ++i) {
    activations_[i] = static_cast<float>(i % 31 - 15);
  }
}

double KernelTimer::seconds(const GpuPolicy& policy, std::string_view kernel,
                            const Encode& encode) {
  using Clock = std::chrono::steady_clock;
  GpuEncoder encoder(*device_, policy);
  encoder.map().share(std::as_bytes(activations_.span()));
  encoder.map().share(std::as_bytes(cache_.span()));
  {
    // All of it once, so that what the kernel reads is there.
    const Spent all{device_->begin()};
    encode_calls(encoder, all.commands, 1, encode);
    all.commands.run();
    encoder.scratch().drop_outgrown();
  }
  double best = std::numeric_limits<double>::infinity();
  int64_t calls = 1;
  for (int round = 0; round < rounds_; ++round) {
    const Spent spent{device_->begin()};
    OneKernel one(spent.commands, device_->pipeline(kernel));
    encode_calls(encoder, one, calls, encode);
    const auto start = Clock::now();
    one.run();
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    encoder.scratch().drop_outgrown();
    best = std::min(best, took / static_cast<double>(one.dispatched()));
    if (best > kSlow) break;
    calls = std::clamp<int64_t>(static_cast<int64_t>(kEnough / best), 1, 512);
  }
  return best;
}

GpuSlice KernelTimer::weights(uint64_t bytes, int64_t n) const {
  const uint64_t each = (bytes + 255) / 256 * 256;
  const uint64_t pieces = weights_->bytes().size() / each;
  return {weights_.get(), static_cast<uint64_t>(n) % pieces * each, bytes};
}

int64_t KernelTimer::positions() const { return is_small() ? 32 : 1024; }

KvLayer KernelTimer::cache(KvType type) {
  return {type, cache_.data(), cache_.data() + cache_.size() / 2, positions()};
}

}  // namespace subbit
