// A weight as the GPU's kernels take it: where its parts lie in the device's memory, found once and
// kept, so that decoding a token looks nothing up and allocates nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/gpu/memory_map.h"
#include "formats/format.h"
#include "formats/stored_weight.h"

namespace subbit {

struct GpuWeight {
  struct Term {
    StoredWeight::TermTag tag = StoredWeight::TermTag::kSign;
    TermShape shape;
    int64_t first_column = 0;
    float gain = 1.0f;
    GpuSlice words;   // factored: V
    GpuSlice second;  // factored: U
    GpuSlice s_mid;
    GpuSlice table;
  };

  StoredWeight::Kind kind = StoredWeight::Kind::kOpaque;
  Shape shape;
  GpuSlice bytes;  // dense, groups
  int64_t group = 0;
  uint64_t scales_at = 0;
  int32_t code_reach = 0;
  GpuSlice s_post;
  GpuSlice s_pre;
  GpuSlice bias;  // of the packed bytes
  std::vector<Term> terms;

  bool is_dense() const {
    return kind == StoredWeight::Kind::kF32 || kind == StoredWeight::Kind::kF16 ||
           kind == StoredWeight::Kind::kBF16;
  }
  bool takes_codes() const { return !is_dense(); }
  /// Its input's codes are the codes every other weight would make of that input.
  bool shares_codes() const { return takes_codes() && s_pre.memory == nullptr; }
};

/// Throws kUnsupportedFormat for a weight that only the CPU can read.
GpuWeight place_weight(const Weight& weight, GpuMemoryMap& map);

}  // namespace subbit
