// embed: rows of an embedding table, by token ids that lie in a buffer, so that a sampled token
// need not pass through the host. A thread writes one column. Twin: backend/cpu/cpu_embed.cc.
#include "device/codings.h"
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

#define EMBED_GROUPS(name, Coding)                                                                \
  KERNEL(name, (constant EmbedArgs & args [[buffer(0)]], device const uchar* table [[buffer(1)]], \
                device const int* tokens [[buffer(2)]], device float* h [[buffer(3)]], THREAD)) { \
    const uint column = group.x * kEmbedThreads + index;                                          \
    if (column >= args.columns) return;                                                           \
    Coding coding;                                                                                \
    const uint unit = uint(tokens[group.y]) * args.groups + column / args.group;                  \
    device const uchar* bytes = table + unit * unit_bytes(coding, args.group);                    \
    const float code = read_code(coding, bytes, args.group, column % args.group);                 \
    device const half* scales = (device const half*)(table + args.scales_at);                     \
    h[group.y * args.h_stride + column] = code * float(scales[unit]);                             \
  }

EMBED_GROUPS(embed_int2, Int2)
EMBED_GROUPS(embed_int3, Int3)
EMBED_GROUPS(embed_int4, Int4)
EMBED_GROUPS(embed_int8, Int8)
