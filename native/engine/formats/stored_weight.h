// A weight's bytes, for back ends with kernels of their own. The spans view what the weight views
// and live as long; what the fields mean is in each format's own header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/half.h"
#include "formats/term.h"

namespace subbit {

struct StoredWeight {
  enum class Kind {
    kOpaque,  // nothing but the CPU's own kernels can read it
    kF32,
    kF16,
    kBF16,
    kInt2,
    kInt3,
    kInt4,
    kInt8,
    kPacked,
  };
  /// The term kinds, by their tags in the file.
  enum class TermTag : uint8_t { kSign = 1, kCode84 = 2, kFactored = 3, kTable = 5 };
  struct Term {
    TermTag tag = TermTag::kSign;
    TermView view;
  };

  Kind kind = Kind::kOpaque;
  std::span<const std::byte> bytes;  // dense: rows * cols values; groups: the tensor

  // int2, int3, int4, int8
  int64_t group = 0;       // columns of a scale
  uint64_t scales_at = 0;  // bytes from the first
  int32_t code_reach = 0;  // largest |code|

  // packed
  std::span<const Half> s_post;
  std::span<const Half> s_pre;  // empty when folded away
  std::vector<Term> terms;
};

}  // namespace subbit
