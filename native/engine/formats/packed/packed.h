// The `packed` format: a linear layer as a short sum of terms. See layout.h for the bytes and
// packed.cc for the arithmetic.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"
#include "formats/term.h"

namespace subbit {

const Format& packed_format();

/// The sections of a packed linear, proved against the layout. Spans point into the tensor.
struct PackedView {
  Shape shape;
  std::span<const float> bias;
  std::span<const Half> s_post;
  std::span<const Half> s_pre;
  struct Term {
    const TermKind* kind = nullptr;
    TermView view;
  };
  std::vector<Term> terms;
};

/// Throws kCorruptFile or, for an unknown tag, kind or flag, kUnsupportedFormat; `where` names the
/// tensor. `bytes` must be aligned to 4. Table terms point into the tensors that `tables` gives.
PackedView parse_packed(std::span<const std::byte> bytes, std::string_view where,
                        const SharedTables& tables = {});

/// "factored r=160", "sign + sign", "table d=8 cols 0-191 + code84 cols 192-447": for people.
std::string describe_packed(const PackedView& view);

}  // namespace subbit
