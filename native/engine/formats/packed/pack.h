// From fitted signs and scales to the bytes of a packed linear.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "formats/signs/index_matrix.h"
#include "formats/signs/sign_matrix.h"

namespace subbit {

/// One fitted term. What its words are made of:
///   sign      matrices {[rows, columns]}
///   code84    matrices {[rows, columns / 2]}: the stored words (formats/code84/code84.h)
///   factored  matrices {V [rank, columns], U [rows, rank]}
///   table     indices [rows, ceil(columns / table_width)] into shared table `table_number`
struct PackedTerm {
  uint8_t kind = 0;  // TermKind::tag
  int64_t rank = 0;  // a multiple of 32; 0 for kinds without one
  int64_t first_column = 0;
  int64_t columns = 0;
  float gain = 1.0f;
  std::vector<float> s_mid;          // [rank], or empty
  std::vector<SignMatrix> matrices;  // in the order their words are stored
  int table_number = 0;              // below kMostTables
  int64_t table_width = 0;           // 4, 8 or 16; 0 for kinds without a table
  IndexMatrix indices;
};

struct PackedLinear {
  Shape shape;
  std::vector<float> bias;    // [rows], or empty
  std::vector<float> s_post;  // [rows]
  std::vector<float> s_pre;   // [cols], or empty when folded away
  std::vector<PackedTerm> terms;
};

/// A packed linear before there are values: what its size depends on, and which columns each term
/// covers (terms over the same columns add up).
struct PackedSize {
  struct Term {
    uint8_t kind = 0;
    int64_t rank = 0;
    int64_t columns = 0;
    bool mid_scale = false;
    int64_t first_column = 0;
    int64_t table_width = 0;
  };
  Shape shape;
  bool bias = false;
  bool own_pre_scale = false;
  std::vector<Term> terms;
};

/// The bytes pack() would give, without packing: what the allocator plans with. Shared tables are
/// tensors of their own: shared_table_bytes() each, once a model.
uint64_t packed_bytes(const PackedSize& size);
PackedSize packed_size(const PackedLinear& linear);
/// "factored r=160", "sign + sign", "table d=8 cols 0-191 + code84 cols 192-447": for people.
std::string describe_packed(const PackedSize& size);

/// Normalises the half vectors into the gains (layout.h) and writes all sections.
/// Throws kNonFinite when a scale or gain is not finite.
std::vector<std::byte> pack(const PackedLinear& linear);

}  // namespace subbit
