// Arguments of the embedding gather (embed.metal).
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

struct EmbedArgs {
  uint32_t columns;
  uint32_t h_stride;
  uint32_t group;      // int4, int8: columns of a scale
  uint32_t groups;     // of a row
  uint32_t scales_at;  // bytes from the tensor's first
};

enum : uint32_t { kEmbedThreads = 256 };

}  // namespace shader
}  // namespace subbit
