// Arguments of the products of the group-scaled formats (groups.metal), whose CPU twins are
// formats/int2, int3, int4 and int8.
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

struct GroupGemvArgs {
  uint32_t rows;
  uint32_t columns;
  uint32_t group;      // columns of a scale: 64 or 32
  uint32_t groups;     // of a row
  uint32_t scales_at;  // bytes from the tensor's first
  uint32_t headroom;   // D: headroom_bits(group * largest |code|)
  uint32_t flags;      // kEpilogueBias
  uint32_t y_stride;
  uint32_t tokens;  // of the whole dispatch
};

enum : uint32_t { kGroupThreads = 128, kGroupRows = 16 };  // of one threadgroup

}  // namespace shader
}  // namespace subbit
