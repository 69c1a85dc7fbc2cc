// The contract of one term of a packed linear: a matrix of integers (times an optional mid scale)
// that the packed linear multiplies by a gain and by its row and column scales. A residual
// correction is one more term; mixed rates are terms over runs of columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/function_ref.h"
#include "base/half.h"
#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

struct SignOperand;      // formats/signs/sign_dot.h
struct MultiplyScratch;  // formats/signs/multiply_scratch.h

inline constexpr int64_t kTableEntries = 256;  // vectors of a shared table: one an index byte
inline constexpr int kMostTables = 256;        // of a model

/// The tensor that holds shared table `number`.
inline std::string shared_table_name(int number) {
  return "model.tables." + std::to_string(number);
}

/// Bytes of a shared table whose vectors have `width` int8 entries.
inline constexpr uint64_t shared_table_bytes(int64_t width) {
  return static_cast<uint64_t>(kTableEntries * width);
}

/// [rows, columns] of the term; `rank` and `table_width` are zero for kinds that have none.
struct TermShape {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t rank = 0;
  int64_t table_width = 0;  // columns one index byte stands for: 4, 8 or 16
};

/// One term's bytes inside a packed linear.
struct TermView {
  TermShape shape;
  int64_t first_column = 0;  // of the linear's stored columns; a multiple of 64
  float gain = 1.0f;
  std::span<const Half> s_mid;       // [rank], or empty
  std::span<const std::byte> words;  // exactly word_bytes(shape)
  int table_number = 0;
  std::span<const int8_t> table;  // [kTableEntries, shape.table_width] of -127..127, or empty
};

/// What the term head's 16-bit parameter says of a kind.
enum class TermParameter {
  kNone,   // must be zero
  kRank,   // rank / 32, at least 1
  kTable,  // low byte: table_width; high byte: table_number
};

/// Told of every run of a product's rows once, by the thread that has just made their sums.
using RowsDone = FunctionRef<void(Range rows)>;

/// What a term's kernel yields for every token and row: the integer I and the exponent E of
/// y = ldexp(I, E). Exponents are per token.
struct TermSums {
  MatrixView<int32_t> sums;      // [tokens, rows]
  std::span<int32_t> exponents;  // [tokens]
  RowsDone done;                 // or none; of one token only, whose exponent is there by then
};

class TermKind {
 public:
  virtual ~TermKind() = default;
  virtual uint8_t tag() const = 0;
  virtual std::string_view name() const = 0;
  virtual TermParameter parameter() const { return TermParameter::kNone; }
  /// What a term's columns must be a multiple of.
  virtual int64_t column_unit() const { return 1; }
  /// Bytes of the term's words; the shape has been checked by the caller to be positive and small
  /// enough not to overflow.
  virtual uint64_t word_bytes(const TermShape& shape) const = 0;
  /// Throws kCorruptFile when the words break the layout (padding bits must be zero). The shape has
  /// been checked against parameter() and column_unit(). `where` names the tensor.
  virtual void check(const TermView& term, std::string_view where) const = 0;
  /// The term's matrix before gain and scales, [count, columns] from `first_row`: the reference.
  virtual void unpack_rows(const TermView& term, int64_t first_row, Matrix out) const = 0;
  /// Exact integer sums against the codes of the whole input vector.
  virtual void multiply(const TermView& term, const SignOperand& input, TermSums out,
                        MultiplyScratch& scratch, ThreadPool& pool) const = 0;
};

}  // namespace subbit
