// embed: rows of an embedding table, by token ids that lie in a buffer, so that a sampled token
// need not pass through the host. A thread writes one column. Twin: backend/cpu/cpu_embed.cc.
#include "device/floats.h"
#include "device/quantized.h"
#include "embed.h"

#define EMBED_STORED(name, Stored)                                                                \
  KERNEL(name, (constant EmbedArgs & args [[buffer(0)]], device const uchar* table [[buffer(1)]], \
                device const int* tokens [[buffer(2)]], device float* h [[buffer(3)]], THREAD)) { \
    const uint column = group.x * kEmbedThreads + index;                                          \
    if (column >= args.columns) return;                                                           \
    Stored stored;                                                                                \
    const uint at = uint(tokens[group.y]) * args.columns + column;                                \
    h[group.y * args.h_stride + column] = read_stored(stored, table, at);                         \
  }

EMBED_STORED(embed_f32, StoredF32)
EMBED_STORED(embed_f16, StoredF16)
EMBED_STORED(embed_bf16, StoredBf16)

KERNEL(embed_int4,
       (constant EmbedArgs & args [[buffer(0)]], device const uchar* table [[buffer(1)]],
        device const int* tokens [[buffer(2)]], device float* h [[buffer(3)]], THREAD)) {
  const uint column = group.x * kEmbedThreads + index;
  if (column >= args.columns) return;
  const uint half_group = args.group / 2;
  const uint unit = uint(tokens[group.y]) * args.groups + column / args.group;
  const uint i = column % args.group;
  const uint byte = table[unit * half_group + i % half_group];
  const int code = int(i < half_group ? byte & 15u : byte >> 4) - 8;
  device const half* scales = (device const half*)(table + args.scales_at);
  h[group.y * args.h_stride + column] = float(code) * float(scales[unit]);
}

KERNEL(embed_int8,
       (constant EmbedArgs & args [[buffer(0)]], device const uchar* table [[buffer(1)]],
        device const int* tokens [[buffer(2)]], device float* h [[buffer(3)]], THREAD)) {
  const uint column = group.x * kEmbedThreads + index;
  if (column >= args.columns) return;
  const uint unit = uint(tokens[group.y]) * args.groups + column / args.group;
  const int code = code_of(table[unit * args.group + column % args.group], 0);
  device const half* scales = (device const half*)(table + args.scales_at);
  h[group.y * args.h_stride + column] = float(code) * float(scales[unit]);
}
