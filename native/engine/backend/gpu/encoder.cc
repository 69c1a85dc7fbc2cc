// Filling in arguments.
#include "backend/gpu/encoder.h"

#include <algorithm>

#include "backend/gpu/arguments.h"
#include "base/check.h"
#include "metal/attention.h"
#include "metal/elementwise.h"
#include "metal/embed.h"
#include "metal/prompt_attention.h"
#include "metal/quantize.h"

namespace subbit {
GpuSlice GpuScratch::take(int slot, uint64_t bytes) {
  std::unique_ptr<GpuMemory>& memory = slots_[slot];
  if (memory == nullptr || memory->bytes().size() < bytes) {
    if (memory != nullptr) outgrown_.push_back(std::move(memory));
    memory = device_.allocate((bytes + 15) / 16 * 16);
  }
  return {memory.get(), 0, bytes};
}

uint64_t GpuScratch::bytes() const {
  uint64_t total = 0;
  for (const auto& memory : slots_) total += memory == nullptr ? 0 : memory->bytes().size();
  return total;
}

GpuEncoder::GpuEncoder(GpuDevice& device, const GpuPolicy& policy)
    : policy_(policy),
      stream_{device, nullptr, {}, 0, 0},
      map_(device),
      scratch_(device),
      status_(device.allocate(256)),
      status_slice_{status_.get(), 0, 4},
      likeliest_{status_.get(), 4, 4},
      dummy_{status_.get(), 16, 240} {
  std::ranges::fill(status_->bytes(), std::byte{0});
}

const GpuWeight& GpuEncoder::placed(const Weight& weight) {
  auto found = placed_.find(&weight);
  if (found == placed_.end()) {
    found = placed_.emplace(&weight, place_weight(weight, map_)).first;
  }
  return found->second;
}

uint32_t GpuEncoder::status() const {
  uint32_t bits = 0;
  std::memcpy(&bits, status_->bytes().data(), sizeof(bits));
  return bits;
}

void GpuEncoder::clear_status() { std::memset(status_->bytes().data(), 0, 4); }

int32_t GpuEncoder::likeliest() const {
  int32_t index = 0;
  std::memcpy(&index, status_->bytes().data() + likeliest_.offset, sizeof(index));
  return index;
}

GpuSlice GpuEncoder::slice(const Tensor& t) const {
  const int64_t floats = t.rows == 0 ? 0 : (t.rows - 1) * t.stride + t.cols;
  return map_.shared(t.data, sizeof(float) * static_cast<uint64_t>(floats));
}

void GpuEncoder::embed(const GpuWeight& w, const GpuSlice& tokens, Tensor h) {
  const std::string_view kernel = embed_kernel(w.kind);
  if (kernel.empty()) {
    throw Error(ErrorCode::kUnsupportedFormat, "there is no GPU kernel for a packed embedding");
  }
  shader::EmbedArgs args{};
  args.columns = u32(h.cols);
  args.h_stride = u32(h.stride);
  args.group = u32(w.group);
  args.groups = w.group == 0 ? 0 : groups_of(h.cols, u32(w.group));
  args.scales_at = static_cast<uint32_t>(w.scales_at);
  GpuDispatch(stream_, kernel)
      .arguments(args)
      .read(w.bytes)
      .read(tokens)
      .write(slice(h))
      .run({groups_of(h.cols, shader::kEmbedThreads), u32(h.rows)}, shader::kEmbedThreads);
}

void GpuEncoder::rms_norm(Tensor x, const GpuNorm& norm, Tensor out) {
  shader::RmsNormArgs args{};
  args.columns = u32(x.cols);
  args.x_stride = u32(x.stride);
  args.out_stride = u32(out.stride);
  args.eps = norm.eps;
  const uint64_t scale_bytes = sizeof(float) * static_cast<uint64_t>(out.rows);
  GpuDispatch(stream_, "rms_norm")
      .arguments(args)
      .read(slice(x))
      .read(map_.constant(norm.weight))
      .write(slice(out))
      .write(map_.shared(out.row_scale, scale_bytes))
      .threadgroup(shader::kReduceBytes)
      .run({1, u32(x.rows)}, shader::kElementThreads);
}

void GpuEncoder::rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) {
  shader::RopeArgs args{};
  args.heads = u32(heads);
  args.half_dim = u32(table.half_dim);
  args.first_position = u32(first_position);
  args.x_stride = u32(x.stride);
  GpuDispatch(stream_, "rope")
      .arguments(args)
      .read(map_.constant(std::span(table.cosine)))
      .read(map_.constant(std::span(table.sine)))
      .write(slice(x))
      .run({groups_of(heads * table.half_dim, shader::kElementThreads), u32(x.rows)},
           shader::kElementThreads);
}

void GpuEncoder::swiglu(Tensor gate, Tensor up, Tensor out) {
  shader::SwigluArgs args{};
  args.columns = u32(gate.cols);
  args.gate_stride = u32(gate.stride);
  args.up_stride = u32(up.stride);
  args.out_stride = u32(out.stride);
  GpuDispatch(stream_, "swiglu")
      .arguments(args)
      .read(slice(gate))
      .read(slice(up))
      .write(slice(out))
      .run({groups_of(gate.cols, shader::kElementThreads), u32(gate.rows)},
           shader::kElementThreads);
}

void GpuEncoder::argmax(Tensor logits) {
  CHECK(logits.rows == 1);
  GpuDispatch(stream_, "argmax")
      .arguments(shader::ArgmaxArgs{u32(logits.cols)})
      .read(slice(logits))
      .write(likeliest_)
      .bind(status_slice_)
      .threadgroup(shader::kReduceBytes)
      .run({1, 1}, shader::kElementThreads);
}

void GpuEncoder::kv_append(const AttentionShape& shape, Tensor k, Tensor v, const KvLayer& kv,
                           int64_t first_position) {
  shader::KvAppendArgs args{};
  set_cache(args, shape, kv, first_position);
  args.k_stride = u32(k.stride);
  args.v_stride = u32(v.stride);
  const GpuCache cache(map_, shape, kv);
  GpuDispatch dispatch(stream_, kv_kernels(kv.type).append);
  dispatch.arguments(args).read(slice(k)).read(slice(v)).write(cache.keys).write(cache.values);
  if (kv.type == KvType::kI8) {  // a simdgroup finds a row's scale
    dispatch.run({args.kv_heads, u32(k.rows), 2}, shader::kSimdLanes);
    return;
  }
  dispatch.run({groups_of(shape.kv_heads * shape.head_dim, shader::kElementThreads), u32(k.rows)},
               shader::kElementThreads);
}

void GpuEncoder::rope_append(const AttentionShape& shape, const RopeTable& table, Tensor q,
                             Tensor k, Tensor v, const KvLayer& kv, int64_t first_position) {
  CHECK(kv.type == KvType::kI8 && shape.head_dim <= shader::kMostHeadDim);
  shader::RopeAppendArgs args{};
  args.heads = u32(shape.heads);
  set_cache(args, shape, kv, first_position);
  args.q_stride = u32(q.stride);
  args.k_stride = u32(k.stride);
  args.v_stride = u32(v.stride);
  const GpuCache cache(map_, shape, kv);
  GpuDispatch(stream_, "rope_append_i8")
      .arguments(args)
      .read(map_.constant(std::span(table.cosine)))
      .read(map_.constant(std::span(table.sine)))
      .write(slice(q))
      .read(slice(k))
      .read(slice(v))
      .write(cache.keys)
      .write(cache.values)
      .run({args.heads + 2 * args.kv_heads, u32(q.rows)}, shader::kSimdLanes);
}

namespace {

shader::AttentionArgs attention_args(const AttentionShape& shape, const Tensor& q,
                                     const KvLayer& kv, int64_t first_position, const Tensor& out) {
  CHECK(shape.head_dim <= shader::kMostHeadDim);
  shader::AttentionArgs args{};
  args.heads = u32(shape.heads);
  set_cache(args, shape, kv, first_position);
  args.splits = 1;
  args.q_stride = u32(q.stride);
  args.out_stride = u32(out.stride);
  return args;
}

}  // namespace

void GpuEncoder::attention_in_blocks(const AttentionShape& shape, Tensor q, const KvLayer& kv,
                                     int64_t first_position, Tensor out) {
  shader::PromptAttentionArgs args{};
  args.attention = attention_args(shape, q, kv, first_position, out);
  args.tokens = u32(q.rows);
  const GpuCache cache(map_, shape, kv);
  GpuDispatch(stream_, kv_kernels(kv.type).blocks)
      .arguments(args)
      .read(slice(q))
      .read(cache.keys)
      .read(cache.values)
      .write(slice(out))
      .threadgroup(shader::prompt_threadgroup_bytes(args.attention.head_dim))
      .run({args.attention.heads, shader::prompt_groups(args.tokens)}, shader::kPromptThreads);
}

void GpuEncoder::attention(const AttentionShape& shape, Tensor q, const KvLayer& kv,
                           int64_t first_position, Tensor out, GpuCodes* codes) {
  if (attends_in_blocks(shape, q, out)) {
    CHECK(codes == nullptr);
    return attention_in_blocks(shape, q, kv, first_position, out);
  }
  const uint32_t splits = attention_splits(policy_, q.rows, first_position + q.rows);
  shader::AttentionArgs args = attention_args(shape, q, kv, first_position, out);
  args.splits = splits;
  GpuSlice target;
  if (codes != nullptr) {
    args.flags = shader::kAttentionQvec;
    *codes = new_codes(q.rows, q.cols, -1);
    target = codes->slice;
  } else {
    target = slice(out);
  }
  const GpuCache cache(map_, shape, kv);
  const uint32_t memory = shader::attention_threadgroup_bytes(args.head_dim);
  if (splits == 1) {
    GpuDispatch(stream_, kv_kernels(kv.type).attend)
        .arguments(args)
        .read(slice(q))
        .read(cache.keys)
        .read(cache.values)
        .write(target)
        .bind(status_slice_)
        .threadgroup(memory)
        .run({args.heads, u32(q.rows), 1}, shader::kAttentionThreads);
    return;
  }
  const uint64_t partial_count = uint64_t{args.heads} * splits * static_cast<uint64_t>(q.rows);
  const GpuSlice partials = scratch_.take(
      GpuScratch::kPartials, 4 * partial_count * shader::partial_floats(args.head_dim));
  GpuDispatch(stream_, kv_kernels(kv.type).split)
      .arguments(args)
      .read(slice(q))
      .read(cache.keys)
      .read(cache.values)
      .write(partials)
      .threadgroup(memory)
      .run({args.heads, u32(q.rows), splits}, shader::kAttentionThreads);
  GpuDispatch(stream_, "attention_combine")
      .arguments(args)
      .read(partials)
      .write(target)
      .bind(status_slice_)
      .run({args.heads, u32(q.rows)}, shader::kCombineThreads);
}

GpuCodes GpuEncoder::new_codes(int64_t tokens, int64_t columns, int avoid_a, int avoid_b) {
  int slot = GpuScratch::kCodesA;
  while (slot == avoid_a || slot == avoid_b) ++slot;
  const uint64_t words = shader::qvec_words(shader::chunks_of_columns(u32(columns)));
  const GpuSlice slice = scratch_.take(slot, 4 * words * static_cast<uint64_t>(tokens));
  return {slice, tokens, columns, slot};
}

namespace {

GpuSlice quantize(GpuStream& stream, const shader::QuantizeArgs& args, GpuSlice x,
                  std::span<const GpuSlice, 3> vectors, GpuSlice target, GpuSlice status,
                  int64_t tokens) {
  GpuDispatch(stream, "quantize")
      .arguments(args)
      .read(x)
      .read(vectors[0])
      .read(vectors[1])
      .read(vectors[2])
      .write(target)
      .bind(status)
      .run({shader::quantize_groups(args.columns), u32(tokens)}, shader::kQuantizeThreads);
  return target;
}

}  // namespace

GpuCodes GpuEncoder::quantize(Tensor x, const GpuSlice& s_pre) {
  shader::QuantizeArgs args{};
  args.columns = u32(x.cols);
  args.x_stride = u32(x.stride);
  GpuSlice scales = dummy_;
  if (x.row_scale != nullptr) {
    args.flags |= shader::kQuantizeRowScale;
    scales = map_.shared(x.row_scale, sizeof(float) * static_cast<uint64_t>(x.rows));
  }
  if (s_pre.memory != nullptr) args.flags |= shader::kQuantizePreScale;
  const GpuCodes codes = new_codes(x.rows, x.cols, -1);
  const GpuSlice vectors[] = {dummy_, or_dummy(s_pre), scales};
  subbit::quantize(stream_, args, slice(x), vectors, codes.slice, status_slice_, x.rows);
  return codes;
}

GpuCodes GpuEncoder::quantize_norm(Tensor h, const GpuNorm& norm) {
  shader::QuantizeArgs args{};
  args.columns = u32(h.cols);
  args.x_stride = u32(h.stride);
  args.flags = shader::kQuantizeNorm;
  args.eps = norm.eps;
  const GpuCodes codes = new_codes(h.rows, h.cols, -1);
  const GpuSlice vectors[] = {map_.constant(norm.weight), dummy_, dummy_};
  subbit::quantize(stream_, args, slice(h), vectors, codes.slice, status_slice_, h.rows);
  return codes;
}

GpuCodes GpuEncoder::quantize_swiglu(Tensor gate, Tensor up) {
  CHECK(up.data >= gate.data && up.stride == gate.stride);
  shader::QuantizeArgs args{};
  args.columns = u32(gate.cols);
  args.x_stride = u32(gate.stride);
  args.flags = shader::kQuantizeSwiglu;
  args.up_offset = u32(up.data - gate.data);
  const GpuCodes codes = new_codes(gate.rows, gate.cols, -1);
  const GpuSlice vectors[] = {dummy_, dummy_, dummy_};
  Tensor both = gate;
  both.cols = up.data - gate.data + up.cols;
  subbit::quantize(stream_, args, slice(both), vectors, codes.slice, status_slice_, gate.rows);
  return codes;
}

}  // namespace subbit
