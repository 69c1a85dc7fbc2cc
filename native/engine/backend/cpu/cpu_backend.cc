// CpuBackend: each operation runs to its end when asked for, so finish() has nothing to wait for.
#include "backend/cpu/cpu_backend.h"

#include "backend/cpu/cpu_operations.h"

namespace subbit {
namespace {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(ThreadPool& pool) : pool_(pool) {}

  void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) override {
    cpu_embed(table, tokens, h, pool_);
  }
  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override {
    cpu_rms_norm(x, weight, eps, out, pool_);
  }
  void linear(const Linear& linear, Tensor x, Tensor y) override {
    cpu_linear(linear, x, y, OutputMode::kOverwrite, scratch_, pool_);
  }
  void linear_add(const Linear& linear, Tensor x, Tensor y) override {
    cpu_linear(linear, x, y, OutputMode::kAdd, scratch_, pool_);
  }
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override {
    cpu_rope(table, first_position, heads, x, pool_);
  }
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override {
    cpu_attention({shape, q, k, v, kv, first_position}, out, pool_);
  }
  void swiglu(Tensor gate, Tensor up, Tensor out) override { cpu_swiglu(gate, up, out, pool_); }
  void argmax(Tensor logits, int32_t& index) override { index = cpu_argmax(logits); }
  void finish() override {}

 private:
  ThreadPool& pool_;
  CpuScratch scratch_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool) {
  return std::make_unique<CpuBackend>(pool);
}

uint64_t cpu_scratch_bytes(const BackendWork& work) {
  const auto floats = [](int64_t count) { return sizeof(float) * static_cast<uint64_t>(count); };
  // Codes are counted twice: when a wider input comes, new memory is taken before the old is given.
  return 2 * quantized_rows_bytes(work.tokens, work.widest_input) +
         floats(work.tokens * work.widest_output);
}

}  // namespace subbit
