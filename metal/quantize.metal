// quantize: rows of floats to QVecs, after the norm's weight, silu(gate) * up or an own s_pre. One
// simdgroup makes one chunk of 32 columns. Twins: quantize_rows, cpu_rms_norm, cpu_swiglu.
#include "device/epilogue.h"
#include "quantize.h"

KERNEL(quantize,
       (constant QuantizeArgs & quantize_args [[buffer(0)]], device const float* x [[buffer(1)]],
        device const float* weight [[buffer(2)]], device const half* s_pre [[buffer(3)]],
        device const float* row_scale [[buffer(4)]], device uint* out [[buffer(5)]],
        device atomic_uint* status [[buffer(6)]], THREAD)) {
  const QuantizeArgs args = quantize_args;
  const uint chunks = chunks_of_columns(args.columns);
  const uint chunk = group.x * kQuantizeChunks + simdgroup;
  if (chunk >= chunks) return;  // the whole simdgroup
  const uint column = 32 * chunk + lane;
  device const float* row = x + group.y * args.x_stride;
  device uint* qvec = out + group.y * qvec_words(chunks);
  float v = 0.0f;
  float square = 0.0f;
  if (column < args.columns) {
    v = row[column];
    if ((args.flags & kQuantizeSwiglu) != 0) v = silu(v) * row[column + args.up_offset];
    if ((args.flags & kQuantizeNorm) != 0) {
      square = v * v;
      v = v * weight[column];
    }
    if ((args.flags & kQuantizePreScale) != 0) v = v * float(s_pre[column]);
  }
  write_chunk(v, square, chunk, chunks, lane, qvec, status);
  if (index != 0 || group.x != 0) return;
  if ((args.flags & kQuantizeNorm) != 0) {
    write_norm_header(args.columns, args.eps, qvec);
  } else {
    const bool scaled = (args.flags & kQuantizeRowScale) != 0;
    write_header(0, scaled ? row_scale[group.y] : 1.0f, qvec);
  }
}
