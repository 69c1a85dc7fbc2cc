// A model on the GPU back end, beside the same model on the processor; on Linux the GPU is the
// fake Metal of test/support/fake_metal.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/gpu/gpu_backend.h"
#include "backend/metal/metal_device.h"
#include "decoding/decoder.h"
#include "io/checkpoint.h"
#include "models/model.h"
#include "support/golden.h"
#include "support/test.h"

namespace subbit::test {

/// KL(softmax(a) || softmax(b)) in nats.
inline double divergence(std::span<const float> a, std::span<const float> b) {
  const auto log_sum = [](std::span<const float> x) {
    double sum = 0;
    for (const float v : x) sum += std::exp(static_cast<double>(v));
    return std::log(sum);
  };
  const double a_sum = log_sum(a);
  const double b_sum = log_sum(b);
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    total += std::exp(a[i] - a_sum) * ((a[i] - a_sum) - (b[i] - b_sum));
  }
  return total;
}

/// The device, or the running test is skipped where a Mac has none that can run the kernels, as a
/// virtual one has. Shaders that do not compile are no reason to skip.
inline std::shared_ptr<GpuDevice> test_device() {
#if defined(__APPLE__)
  try {
    return open_metal_device();
  } catch (const Error& error) {
    const std::string reason = error.what();
    if (reason.find("do not compile") != std::string::npos) throw;
    skip(reason);
  }
#else
  return open_metal_device();
#endif
}

class GpuRunner {
 public:
  GpuRunner(const std::string& path, KvType kv, const GpuPolicy& policy)
      : GpuRunner(path, kv, policy, test_device()) {}
  GpuRunner(const std::string& path, KvType kv, const GpuPolicy& policy,
            std::shared_ptr<GpuDevice> device)
      : checkpoint_(Checkpoint::open(path)),
        model_(
            find_architecture(checkpoint_.config(), path).load(checkpoint_, WeightMode::kAsStored)),
        backend_(make_gpu_backend(std::move(device), policy)),
        kv_(kv) {
    for (const auto& mapping : checkpoint_.mappings()) backend_->share(mapping);
  }

  GpuBackend& backend() { return *backend_; }
  const ModelConfig& config() const { return model_->config(); }
  Decoder& decoder() {
    if (!decoder_) {
      decoder_ = std::make_unique<Decoder>(
          *model_, *backend_,
          DecoderOptions{std::min<int64_t>(64, config().max_position_embeddings), kv_});
    }
    return *decoder_;
  }
  /// Logits [tokens, vocab].
  std::vector<float> forward(std::span<const int32_t> tokens) {
    return test::forward(decoder(), tokens);
  }

 private:
  Checkpoint checkpoint_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<GpuBackend> backend_;
  KvType kv_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace subbit::test
