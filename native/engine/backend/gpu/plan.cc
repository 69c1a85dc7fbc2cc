// The walk over the steps.
#include "backend/gpu/plan.h"

#include <algorithm>

#include "base/check.h"

namespace subbit {
namespace {

using Kind = GpuStep::Kind;

/// First and last float that a tensor spans; columns of one row interleave with others' of course,
/// so tensors of one stride that lie side by side do not touch.
bool touches(const Tensor& a, const Tensor& b) {
  if (a.data == nullptr || b.data == nullptr || a.rows == 0 || b.rows == 0) return false;
  const float* a_end = a.data + (a.rows - 1) * a.stride + a.cols;
  const float* b_end = b.data + (b.rows - 1) * b.stride + b.cols;
  if (a_end <= b.data || b_end <= a.data) return false;
  if (a.stride != b.stride || a.rows == 1 || b.rows == 1) return true;
  const int64_t apart = ((b.data - a.data) % a.stride + a.stride) % a.stride;
  return apart < a.cols || apart + b.cols > a.stride;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.data == b.data && a.rows == b.rows && a.cols == b.cols && a.stride == b.stride;
}

bool reads(const GpuStep& step, const Tensor& value) {
  if (touches(step.in, value) || touches(step.in2, value) || touches(step.in3, value)) return true;
  return step.kind == Kind::kLinearAdd && touches(step.out, value);
}

/// The columns of `value` that a step leaves as they are: all of them, those right or left of what
/// it writes, or none. Only whole rows of columns at one end count.
Tensor untouched_by(const GpuStep& step, Tensor value) {
  const Tensor& out = step.out;
  const bool writes =
      step.kind != Kind::kLinearAdd && step.kind != Kind::kRope && step.kind != Kind::kArgmax;
  if (!writes || out.stride != value.stride || out.rows < value.rows) return value;
  const int64_t first = out.data - value.data;
  if (first <= 0 && first + out.cols > 0) {
    const int64_t gone = std::min(first + out.cols, value.cols);
    return value.columns(gone, value.cols - gone);
  }
  if (first > 0 && first < value.cols && first + out.cols >= value.cols) {
    return value.columns(0, first);
  }
  return value;
}

bool is_linear(const GpuStep& step) {
  return step.kind == Kind::kLinear || step.kind == Kind::kLinearAdd;
}

OutputMode mode_of(const GpuStep& step) {
  return step.kind == Kind::kLinearAdd ? OutputMode::kAdd : OutputMode::kOverwrite;
}

}  // namespace

void GpuPlanner::encode(Steps steps, Rest rest) {
  codes_.reset();
  rest_ = rest;
  while (!steps.empty()) steps = steps.subspan(take(steps));
}

size_t GpuPlanner::take(Steps left) {
  const GpuStep& step = left.front();
  switch (step.kind) {
    case Kind::kEmbed:
      forget(step.out);
      encoder_.embed(encoder_.placed(*step.table), step.tokens, step.out);
      return 1;
    case Kind::kRmsNorm:
      return take_norm(left);
    case Kind::kLinear:
    case Kind::kLinearAdd:
      return take_linear(left);
    case Kind::kRope:
      if (const auto taken = fuse_rope_append(left)) return *taken;
      forget(step.out);
      encoder_.rope(*step.rope, step.first_position, step.heads, step.out);
      return 1;
    case Kind::kAttention:
      return take_attention(left, false);
    case Kind::kSwiglu:
      return take_swiglu(left);
    case Kind::kArgmax:
      encoder_.argmax(step.in);
      return 1;
  }
  return 1;
}

bool GpuPlanner::dead_after(Steps left, size_t taken, Tensor value) const {
  for (const GpuStep& step : left.subspan(std::min(taken, left.size()))) {
    if (reads(step, value)) return false;
    value = untouched_by(step, value);
    if (value.cols == 0) return true;
  }
  // A value that has been taken in is dead when all is done, by the contract of Backend::finish.
  return rest_ == Rest::kNone;
}

void GpuPlanner::forget(const Tensor& overwritten) {
  if (codes_ && touches(coded_, overwritten)) codes_.reset();
}

const GpuWeight* GpuPlanner::fusable(const GpuStep& step) {
  const Linear& linear = *step.linear;
  if (encoder_.by_matrix(step.in.rows)) return nullptr;
  if (linear.parts.size() != 1 || !linear.parts[0].bias.empty()) return nullptr;
  const GpuWeight& w = encoder_.placed(*linear.parts[0].weight);
  const bool one_term = w.kind == StoredWeight::Kind::kPacked && w.terms.size() == 1 &&
                        w.terms[0].tag != StoredWeight::TermTag::kTable;
  return one_term && w.shares_codes() ? &w : nullptr;
}

bool GpuPlanner::next_takes_codes(Steps left, size_t next, const Tensor& value) {
  if (left.size() <= next || !is_linear(left[next]) || !same(left[next].in, value)) return false;
  const auto& parts = left[next].linear->parts;
  return std::ranges::all_of(parts,
                             [&](const Linear::Part& part) {
                               return encoder_.placed(*part.weight).shares_codes();
                             }) &&
         dead_after(left, next + 1, value);
}

size_t GpuPlanner::take_norm(Steps left) {
  const GpuStep& step = left.front();
  if (!next_takes_codes(left, 1, step.out)) {
    forget(step.out);
    encoder_.rms_norm(step.in, step.norm, step.out);
    return 1;
  }
  codes_ = encoder_.quantize_norm(step.in, step.norm);
  coded_ = step.out;
  return 1;
}

GpuCodes GpuPlanner::codes_of(const Tensor& x) {
  if (!codes_ || !same(coded_, x)) {
    codes_ = encoder_.quantize(x, {});
    coded_ = x;
  }
  return *codes_;
}

size_t GpuPlanner::take_linear(Steps left) {
  const GpuStep& step = left.front();
  const GpuWeight* w = fusable(step);
  if (w != nullptr && step.kind == Kind::kLinear) {
    const GpuCodes x = codes_of(step.in);
    if (const auto taken = fuse_qkv(left, *w, x)) return *taken;
    if (const auto taken = fuse_swiglu(left, *w, x)) return *taken;
  }
  if (w != nullptr && step.kind == Kind::kLinearAdd && left.size() > 1 &&
      left[1].kind == Kind::kRmsNorm && same(left[1].in, step.out) &&
      next_takes_codes(left.subspan(1), 1, left[1].out)) {
    const GpuCodes x = codes_of(step.in);
    codes_ = encoder_.multiply_add_norm(*w, x, step.out, left[1].norm);
    coded_ = left[1].out;
    return 2;
  }
  multiply_parts(*step.linear, step.in, step.out, mode_of(step));
  forget(step.out);
  return 1;
}

std::optional<size_t> GpuPlanner::fuse_qkv(Steps left, const GpuWeight& w, const GpuCodes& x) {
  if (left.size() < 4 || left[1].kind != Kind::kRope || left[2].kind != Kind::kRope ||
      left[3].kind != Kind::kAttention) {
    return std::nullopt;
  }
  const Tensor& y = left[0].out;
  const GpuStep& attend = left[3];
  const AttentionShape& shape = attend.shape;
  const int64_t q = shape.heads * shape.head_dim;
  const int64_t kv = shape.kv_heads * shape.head_dim;
  // A row of int8 codes has one scale, which no threadgroup of the product could know.
  const bool fits = attend.kv.type != KvType::kI8 && shape.head_dim % 8 == 0 &&
                    y.cols == q + 2 * kv && same(attend.in, y.columns(0, q)) &&
                    same(attend.in2, y.columns(q, kv)) && same(attend.in3, y.columns(q + kv, kv)) &&
                    same(left[1].in, attend.in) && same(left[2].in, attend.in2) &&
                    left[1].rope == left[2].rope &&
                    left[1].first_position == attend.first_position &&
                    left[2].first_position == attend.first_position &&
                    left[1].heads == shape.heads && left[2].heads == shape.kv_heads;
  if (!fits || !dead_after(left, 4, y)) return std::nullopt;
  forget(y);
  encoder_.multiply_qkv(w, x, {shape, left[1].rope, attend.kv, attend.first_position}, attend.in);
  return 3 + take_attention(left.subspan(3), true);
}

std::optional<size_t> GpuPlanner::fuse_rope_append(Steps left) {
  if (left.size() < 3 || left[1].kind != Kind::kRope || left[2].kind != Kind::kAttention) {
    return std::nullopt;
  }
  const GpuStep& attend = left[2];
  const AttentionShape& shape = attend.shape;
  const bool fits = attend.kv.type == KvType::kI8 && same(left[0].in, attend.in) &&
                    same(left[1].in, attend.in2) && left[0].rope == left[1].rope &&
                    left[0].heads == shape.heads && left[1].heads == shape.kv_heads &&
                    left[0].first_position == attend.first_position &&
                    left[1].first_position == attend.first_position;
  if (!fits || !dead_after(left, 3, attend.in2)) return std::nullopt;
  forget(attend.in);
  encoder_.rope_append(shape, *left[0].rope, attend.in, attend.in2, attend.in3, attend.kv,
                       attend.first_position);
  return 2 + take_attention(left.subspan(2), true);
}

std::optional<size_t> GpuPlanner::fuse_swiglu(Steps left, const GpuWeight& w, const GpuCodes& x) {
  if (left.size() < 3 || left[1].kind != Kind::kSwiglu) return std::nullopt;
  const Tensor& y = left[0].out;
  const GpuStep& join = left[1];
  const int64_t ffn = y.cols / 2;
  if (ffn % 4 != 0 || !same(join.in, y.columns(0, ffn)) || !same(join.in2, y.columns(ffn, ffn)) ||
      !dead_after(left, 2, y) || !next_takes_codes(left.subspan(1), 1, join.out)) {
    return std::nullopt;
  }
  codes_ = encoder_.multiply_swiglu(w, x);
  coded_ = join.out;
  return 2;
}

size_t GpuPlanner::take_attention(Steps left, bool appended) {
  const GpuStep& step = left.front();
  if (!appended) {
    encoder_.kv_append(step.shape, step.in2, step.in3, step.kv, step.first_position);
  }
  // A head's values must be whole chunks.
  const bool as_codes = step.shape.head_dim % 32 == 0 &&
                        !encoder_.attends_in_blocks(step.shape, step.in, step.out) &&
                        next_takes_codes(left, 1, step.out);
  forget(step.out);
  GpuCodes codes;
  encoder_.attention(step.shape, step.in, step.kv, step.first_position, step.out,
                     as_codes ? &codes : nullptr);
  if (as_codes) {
    codes_ = codes;
    coded_ = step.out;
  }
  return 1;
}

size_t GpuPlanner::take_swiglu(Steps left) {
  const GpuStep& step = left.front();
  const bool side_by_side = step.in2.data >= step.in.data && step.in2.stride == step.in.stride;
  if (side_by_side && next_takes_codes(left, 1, step.out)) {
    codes_ = encoder_.quantize_swiglu(step.in, step.in2);
    coded_ = step.out;
    return 1;
  }
  forget(step.out);
  encoder_.swiglu(step.in, step.in2, step.out);
  return 1;
}

void GpuPlanner::multiply_parts(const Linear& linear, Tensor x, Tensor y, OutputMode mode) {
  int64_t first = 0;
  for (const Linear::Part& part : linear.parts) {
    const GpuWeight& w = encoder_.placed(*part.weight);
    const Tensor out = y.columns(first, w.shape.rows);
    first += w.shape.rows;
    GpuSlice bias;
    if (!part.bias.empty()) bias = encoder_.map().constant(std::span(part.bias));
    if (!w.takes_codes()) {
      encoder_.multiply_dense(w, x, bias, out, mode);
    } else if (w.kind != StoredWeight::Kind::kPacked) {
      encoder_.multiply_groups(w, codes_of(x), bias, out, mode);
    } else if (w.shares_codes()) {
      encoder_.multiply_packed(w, codes_of(x), out, mode);
    } else {
      codes_.reset();
      encoder_.multiply_packed(w, encoder_.quantize(x, w.s_pre), out, mode);
    }
  }
  CHECK(first == y.cols);
}

}  // namespace subbit
