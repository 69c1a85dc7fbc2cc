// Single operations as dispatches: each method fills in the arguments of one kernel (metal/*.h) and
// encodes it. What follows what, and which operations become one, is the planner's business.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "backend/gpu/dispatch.h"
#include "backend/gpu/gpu_weight.h"
#include "backend/gpu/memory_map.h"
#include "backend/gpu/policy.h"

namespace subbit {

/// A quantized input in scratch: one QVec (metal/qvec.h) for each token.
struct GpuCodes {
  GpuSlice slice;
  int64_t tokens = 0;
  int64_t columns = 0;
  int slot = -1;
};

/// What a linear's results become besides being stored.
struct GpuNorm {
  std::span<const float> weight;
  float eps = 0;
};
struct GpuQkv {
  AttentionShape shape;
  const RopeTable* rope = nullptr;
  KvLayer kv;
  int64_t first_position = 0;
};

/// Scratch memory that grows to what the longest call needs and then stays.
class GpuScratch {
 public:
  static constexpr int kSlots = 8;
  enum Slot { kCodesA, kCodesB, kCodesC, kSums, kExponents, kRankSums, kRankExponents, kPartials };

  explicit GpuScratch(GpuDevice& device) : device_(device) {}
  GpuSlice take(int slot, uint64_t bytes);
  /// Memory that dispatches still use may not go: call after they have run.
  void drop_outgrown() { outgrown_.clear(); }
  uint64_t bytes() const;

 private:
  GpuDevice& device_;
  std::unique_ptr<GpuMemory> slots_[kSlots];
  std::vector<std::unique_ptr<GpuMemory>> outgrown_;
};

class GpuEncoder {
 public:
  GpuEncoder(GpuDevice& device, const GpuPolicy& policy);

  GpuStream& stream() { return stream_; }
  GpuMemoryMap& map() { return map_; }
  GpuScratch& scratch() { return scratch_; }
  const GpuWeight& placed(const Weight& weight);
  /// Whether a call's signs are multiplied by simdgroup_matrix, whose kernels have no fused ends.
  bool by_matrix(int64_t tokens) const {
    return policy_.prompt_kernel == PromptKernel::kMatrix &&
           call_size(policy_, tokens) == CallSize::kPrompt;
  }
  /// The same of one term's matrix. A table has no other kernel for several tokens: looking its
  /// entries up is most of the work, and two tokens already cost less by matrices than one by one.
  bool by_matrix(StoredWeight::TermTag matrix, int64_t tokens) const {
    return by_matrix(tokens) || (matrix == StoredWeight::TermTag::kTable && tokens > 1);
  }
  /// Whether attention goes in blocks of tokens. It then leaves floats, and not over its queries:
  /// blocks at a prompt's end share tokens.
  bool attends_in_blocks(const AttentionShape& shape, const Tensor& q, const Tensor& out) const {
    return call_size(policy_, q.rows) == CallSize::kPrompt && shape.head_dim % 8 == 0 &&
           q.data != out.data;
  }
  /// Bits that kernels have set since clear_status() (StatusBit of metal/qvec.h).
  uint32_t status() const;
  void clear_status();
  /// What the last argmax() found.
  int32_t likeliest() const;

  void embed(const GpuWeight& table, const GpuSlice& tokens, Tensor h);
  void rms_norm(Tensor x, const GpuNorm& norm, Tensor out);
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x);
  void swiglu(Tensor gate, Tensor up, Tensor out);
  void argmax(Tensor logits);
  void kv_append(const AttentionShape& shape, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position);
  /// Both ropes and kv_append in one, for a cache of int8 rows; k is left as it was.
  void rope_append(const AttentionShape& shape, const RopeTable& table, Tensor q, Tensor k,
                   Tensor v, const KvLayer& kv, int64_t first_position);
  /// Into `out`, or as codes where `codes` is given.
  void attention(const AttentionShape& shape, Tensor q, const KvLayer& kv, int64_t first_position,
                 Tensor out, GpuCodes* codes);

  /// Codes of x, of h * norm, of silu(gate) * up; `s_pre` belongs to one linear.
  GpuCodes quantize(Tensor x, const GpuSlice& s_pre);
  GpuCodes quantize_norm(Tensor h, const GpuNorm& norm);
  GpuCodes quantize_swiglu(Tensor gate, Tensor up);

  /// y = (or +=) W x + bias for one weight of a linear.
  void multiply_dense(const GpuWeight& w, Tensor x, const GpuSlice& bias, Tensor y,
                      OutputMode mode);
  void multiply_groups(const GpuWeight& w, const GpuCodes& x, const GpuSlice& bias, Tensor y,
                       OutputMode mode);
  void multiply_packed(const GpuWeight& w, const GpuCodes& x, Tensor y, OutputMode mode);
  /// The fused ends of a packed linear of one term.
  GpuCodes multiply_add_norm(const GpuWeight& w, const GpuCodes& x, Tensor h, const GpuNorm& norm);
  GpuCodes multiply_swiglu(const GpuWeight& w, const GpuCodes& x);
  void multiply_qkv(const GpuWeight& w, const GpuCodes& x, const GpuQkv& qkv, Tensor q);

  GpuSlice slice(const Tensor& tensor) const;

 private:
  struct Product;  // one matrix of signs times codes

  void attention_in_blocks(const AttentionShape& shape, Tensor q, const KvLayer& kv,
                           int64_t first_position, Tensor out);
  GpuCodes new_codes(int64_t tokens, int64_t columns, int avoid_a, int avoid_b = -1);
  Product last_product(const GpuWeight& w, const GpuWeight::Term& term, const GpuCodes& x);
  GpuCodes rank_codes(const GpuWeight::Term& term, const GpuCodes& x);
  void multiply_terms(const GpuWeight& w, const GpuCodes& x, Tensor y, OutputMode mode);
  void sums(const GpuWeight& w, size_t term, const GpuCodes& x);
  /// A product by simdgroup_matrix, and the codes of a first one.
  void matrix_sums(const Product& product, const GpuSlice& sums, const GpuSlice& exponents);
  GpuCodes matrix_rank_codes(const GpuWeight::Term& term, const GpuCodes& x);
  GpuSlice or_dummy(const GpuSlice& slice) const { return slice.memory ? slice : dummy_; }

  GpuPolicy policy_;
  GpuStream stream_;
  GpuMemoryMap map_;
  GpuScratch scratch_;
  std::unordered_map<const Weight*, GpuWeight> placed_;
  std::unique_ptr<GpuMemory> status_;  // two words, and room to bind where nothing is meant
  GpuSlice status_slice_;
  GpuSlice likeliest_;
  GpuSlice dummy_;
};

}  // namespace subbit
