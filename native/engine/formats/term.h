// The contract of one term of a packed linear: a matrix of integers (times an optional mid scale)
// that the packed linear multiplies by a gain and by its row and column scales. A residual
// correction is one more term; mixed rates are terms over runs of columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/half.h"
#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

struct SignOperand;  // formats/signs/sign_dot.h

/// [rows, columns] of the term; `rank` is zero for kinds that have none.
struct TermShape {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t rank = 0;
};

/// One term's bytes inside a packed linear.
struct TermView {
  TermShape shape;
  int64_t first_column = 0;  // of the linear's stored columns; a multiple of 64
  float gain = 1.0f;
  std::span<const Half> s_mid;       // [rank], or empty
  std::span<const std::byte> words;  // exactly word_bytes(shape)
};

/// What a term's kernel yields for every token and row: the integer I and the exponent E of
/// y = ldexp(I, E). Exponents are per token.
struct TermSums {
  MatrixView<int32_t> sums;      // [tokens, rows]
  std::span<int32_t> exponents;  // [tokens]
};

class TermKind {
 public:
  virtual ~TermKind() = default;
  virtual uint8_t tag() const = 0;
  virtual std::string_view name() const = 0;
  /// Bytes of the term's words; the shape has been checked by the caller to be positive and small
  /// enough not to overflow.
  virtual uint64_t word_bytes(const TermShape& shape) const = 0;
  /// Throws kCorruptFile when the shape or the words break the layout (padding bits must be zero).
  /// `where` names the tensor.
  virtual void check(const TermView& term, std::string_view where) const = 0;
  /// The term's matrix before gain and scales, [count, columns] from `first_row`: the reference.
  virtual void unpack_rows(const TermView& term, int64_t first_row, Matrix out) const = 0;
  /// Exact integer sums against the codes of the whole input vector.
  virtual void multiply(const TermView& term, const SignOperand& input, TermSums out,
                        ThreadPool& pool) const = 0;
};

}  // namespace subbit
