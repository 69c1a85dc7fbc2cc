// The operations that a fused forward pass has inside other kernels, each on its own: rms_norm,
// rope, kv_append, swiglu; and argmax. Twins: the files of backend/cpu under the same words.
#include "attention.h"
#include "device/epilogue.h"
#include "elementwise.h"

/// The sum over a threadgroup of `kElementThreads`. `partials` holds a float a simdgroup.
inline float threadgroup_sum(float value, threadgroup float* partials, uint lane, uint simdgroup) {
  const float sum = simd_sum(value);
  if (lane == 0) partials[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (uint i = 0; i < kElementSimdgroups; ++i) total += partials[i];
  return total;
}

KERNEL(rms_norm, (constant RmsNormArgs & args [[buffer(0)]], device const float* x [[buffer(1)]],
                  device const float* weight [[buffer(2)]], device float* out [[buffer(3)]],
                  device float* row_scale [[buffer(4)]], threadgroup float* partials THREADGROUP(0),
                  THREAD)) {
  device const float* row = x + group.y * args.x_stride;
  float squares = 0.0f;
  for (uint j = index; j < args.columns; j += kElementThreads) {
    const float value = row[j];
    squares = fma(value, value, squares);
    out[group.y * args.out_stride + j] = value * weight[j];
  }
  const float sum = threadgroup_sum(squares, partials, lane, simdgroup);
  if (index == 0) row_scale[group.y] = 1.0f / sqrt(sum / float(args.columns) + args.eps);
}

KERNEL(rope, (constant RopeArgs & args [[buffer(0)]], device const float* cosine [[buffer(1)]],
              device const float* sine [[buffer(2)]], device float* x [[buffer(3)]], THREAD)) {
  const uint pair = group.x * kElementThreads + index;
  if (pair >= args.heads * args.half_dim) return;
  const uint i = pair % args.half_dim;
  const uint at = (args.first_position + group.y) * args.half_dim + i;
  device float* low = x + group.y * args.x_stride + pair / args.half_dim * 2 * args.half_dim + i;
  const float a = low[0];
  const float b = low[args.half_dim];
  low[0] = a * cosine[at] - b * sine[at];
  low[args.half_dim] = b * cosine[at] + a * sine[at];
}

/// Columns of k and v [kv_heads * head_dim] of one token, to where the cache has them.
#define KV_APPEND(name, Element)                                                                 \
  KERNEL(name, (constant KvAppendArgs & args [[buffer(0)]], device const float* k [[buffer(1)]], \
                device const float* v [[buffer(2)]], device Element* keys [[buffer(3)]],         \
                device Element* values [[buffer(4)]], THREAD)) {                                 \
    const uint column = group.x * kElementThreads + index;                                       \
    if (column >= args.kv_heads * args.head_dim) return;                                         \
    const uint row = column / args.head_dim * args.capacity + args.first_position + group.y;     \
    const uint at = row * args.head_dim + column % args.head_dim;                                \
    keys[at] = Element(k[group.y * args.k_stride + column]);                                     \
    values[at] = Element(v[group.y * args.v_stride + column]);                                   \
  }

KV_APPEND(kv_append_f32, float)
KV_APPEND(kv_append_f16, half)

inline uint code_row_bytes(uint head_dim) { return (head_dim + 3) / 4 * 4 + 4; }

/// Dimension d of a row of `head_dim`, rotated: `rope` of the head that it is.
inline float rotated(device const float* row, uint head_dim, uint d, device const float* cosine,
                     device const float* sine) {
  const uint half_dim = head_dim / 2;
  const float a = row[d % half_dim];
  const float b = row[d % half_dim + half_dim];
  const float c = cosine[d % half_dim];
  const float s = sine[d % half_dim];
  return d < half_dim ? a * c - b * s : b * c + a * s;
}

/// A row of int8 codes (kv_row_bytes of backend.h) by one simdgroup; lane l has dimensions
/// l + 32 i. Twin: store_codes of backend/cpu/attention_kernels.cc.
inline void store_code_row(thread const float* own, uint head_dim, uint lane, device uchar* to) {
  const uint padded = (head_dim + 3) / 4 * 4;
  uint bits = 0;
  UNROLL
  for (uint i = 0; i < kMostHeadDim / 32; ++i) {
    if (lane + 32 * i < head_dim) bits = max(bits, as_type<uint>(own[i]) & 0x7FFFFFFFu);
  }
  bits = simd_max(bits);
  const float largest = as_type<float>(bits);
  const bool zero = bits < kTinyBits;
  const float inverse = zero || bits >= kInfinityBits ? 0.0f : 127.0f / largest;
  UNROLL
  for (uint i = 0; i < kMostHeadDim / 32; ++i) {
    const uint d = lane + 32 * i;
    if (d < padded) to[d] = d < head_dim ? uchar(int(rint(own[i] * inverse))) : uchar(0);
  }
  if (lane == 0) ((device float*)(to + padded))[0] = zero ? 0.0f : largest / 127.0f;
}

/// kv_append for rows of int8 codes: a simdgroup writes one row, z 0 of the keys and z 1 of the
/// values.
KERNEL(kv_append_i8,
       (constant KvAppendArgs & args [[buffer(0)]], device const float* k [[buffer(1)]],
        device const float* v [[buffer(2)]], device uchar* keys [[buffer(3)]],
        device uchar* values [[buffer(4)]], THREAD)) {
  const bool key = group.z == 0;
  device const float* from = key ? k + group.y * args.k_stride : v + group.y * args.v_stride;
  from += group.x * args.head_dim;
  float own[kMostHeadDim / 32];
  UNROLL
  for (uint i = 0; i < kMostHeadDim / 32; ++i) {
    own[i] = lane + 32 * i < args.head_dim ? from[lane + 32 * i] : 0.0f;
  }
  const uint row = group.x * args.capacity + args.first_position + group.y;
  store_code_row(own, args.head_dim, lane,
                 (key ? keys : values) + row * code_row_bytes(args.head_dim));
}

/// Rotates q in place, and rotates k and appends it with v, whose rows become codes: one simdgroup
/// a head, those of q first, then k's, then v's. k is left as it was.
KERNEL(rope_append_i8,
       (constant RopeAppendArgs & args [[buffer(0)]], device const float* cosine [[buffer(1)]],
        device const float* sine [[buffer(2)]], device float* q [[buffer(3)]],
        device const float* k [[buffer(4)]], device const float* v [[buffer(5)]],
        device uchar* keys [[buffer(6)]], device uchar* values [[buffer(7)]], THREAD)) {
  const bool query = group.x < args.heads;
  const bool key = group.x < args.heads + args.kv_heads;
  const uint head = query ? group.x
                    : key ? group.x - args.heads
                          : group.x - args.heads - args.kv_heads;
  const uint angles = (args.first_position + group.y) * (args.head_dim / 2);
  device float* own_q = q + group.y * args.q_stride + (query ? head : 0) * args.head_dim;
  device const float* from = key ? k + group.y * args.k_stride : v + group.y * args.v_stride;
  from += (query ? 0 : head) * args.head_dim;
  float own[kMostHeadDim / 32];
  UNROLL
  for (uint i = 0; i < kMostHeadDim / 32; ++i) {
    const uint d = lane + 32 * i;
    own[i] = 0.0f;
    if (d >= args.head_dim) continue;
    if (query) {
      own[i] = rotated(own_q, args.head_dim, d, cosine + angles, sine + angles);
    } else {
      own[i] = key ? rotated(from, args.head_dim, d, cosine + angles, sine + angles) : from[d];
    }
  }
  // Both halves of a head have been read before one is written.
  threadgroup_barrier(mem_flags::mem_device);
  if (query) {
    UNROLL
    for (uint i = 0; i < kMostHeadDim / 32; ++i) {
      if (lane + 32 * i < args.head_dim) own_q[lane + 32 * i] = own[i];
    }
    return;
  }
  const uint row = head * args.capacity + args.first_position + group.y;
  store_code_row(own, args.head_dim, lane,
                 (key ? keys : values) + row * code_row_bytes(args.head_dim));
}

KERNEL(swiglu, (constant SwigluArgs & args [[buffer(0)]], device const float* gate [[buffer(1)]],
                device const float* up [[buffer(2)]], device float* out [[buffer(3)]], THREAD)) {
  const uint column = group.x * kElementThreads + index;
  if (column >= args.columns) return;
  const float product =
      silu(gate[group.y * args.gate_stride + column]) * up[group.y * args.up_stride + column];
  out[group.y * args.out_stride + column] = product;
}

/// The first of the largest logits. One that is not a finite number sets kStatusLogit.
KERNEL(argmax, (constant ArgmaxArgs & args [[buffer(0)]], device const float* logits [[buffer(1)]],
                device int* out [[buffer(2)]], device atomic_uint* status [[buffer(3)]],
                threadgroup uint* partials THREADGROUP(0), THREAD)) {
  float most = -INFINITY;
  uint where = 0xFFFFFFFFu;
  bool finite = true;
  for (uint i = index; i < args.count; i += kElementThreads) {
    const float logit = logits[i];
    const bool larger = logit > most;
    where = larger ? i : where;
    most = larger ? logit : most;
    finite = finite && (as_type<uint>(logit) & 0x7FFFFFFFu) < kInfinityBits;
  }
  if (!finite) set_status(status, kStatusLogit);
  const float largest = simd_max(most);
  const uint first = simd_min(most == largest ? where : 0xFFFFFFFFu);
  if (lane == 0) {
    partials[2 * simdgroup] = as_type<uint>(largest);
    partials[2 * simdgroup + 1] = first;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (index != 0) return;
  float best = -INFINITY;
  uint at = 0xFFFFFFFFu;
  for (uint i = 0; i < kElementSimdgroups; ++i) {
    const float value = as_type<float>(partials[2 * i]);
    const uint from = partials[2 * i + 1];
    if (value > best || (value == best && from < at)) {
      best = value;
      at = from;
    }
  }
  out[0] = at == 0xFFFFFFFFu ? 0 : int(at);
}
