// One kernel's time, taken out of whatever operation dispatches it: an operation is encoded as
// ever, and only the dispatches of that kernel are handed to the device.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "backend/gpu/device.h"
#include "backend/gpu/encoder.h"
#include "base/buffer.h"

namespace subbit {

/// Operands of one size, and a clock. Weights are bytes without meaning; calls walk through more of
/// them than caches hold, several to a command buffer, so that what is timed is the kernel and not
/// the waiting for its end.
class KernelTimer {
 public:
  using Encode = std::function<void(GpuEncoder& encoder, int64_t n)>;

  /// Begins with small matrices.
  explicit KernelTimer(std::shared_ptr<GpuDevice> device);

  int64_t rows() const { return rows_; }
  bool is_small() const;
  /// Goes on with large ones.
  void grow();
  /// From now on one call is enough: the device is slow, and what it takes means nothing.
  void hurry() { rounds_ = 1; }

  /// Seconds of one dispatch of `kernel`, of the quickest command buffer. `encode` is called with
  /// n = 0, 1, ... and dispatches it at least once each time.
  double seconds(const GpuPolicy& policy, std::string_view kernel, const Encode& encode);

  /// Of `bytes`, the nth piece of the weights' memory, which comes again when caches have forgotten
  /// it.
  GpuSlice weights(uint64_t bytes, int64_t n) const;
  /// The id of a token: 0.
  GpuSlice token() const { return {token_.get(), 0, sizeof(int32_t)}; }
  /// Of the cache.
  int64_t positions() const;
  KvLayer cache(KvType type);
  /// `tokens` rows, as wide as the matrices.
  Tensor x(int64_t tokens) { return {activations_.data(), tokens, rows_, rows_, nullptr}; }
  Tensor y(int64_t tokens) {
    return {activations_.data() + activations_.size() / 2, tokens, rows_, rows_, nullptr};
  }

 private:
  void make_operands(int64_t rows, uint64_t memory);

  std::shared_ptr<GpuDevice> device_;
  int64_t rows_ = 0;
  int rounds_ = 4;
  std::unique_ptr<GpuMemory> weights_;
  std::unique_ptr<GpuMemory> token_;
  Buffer<float> activations_;
  Buffer<float> cache_;  // keys, then values: zeros of any type
};

}  // namespace subbit
