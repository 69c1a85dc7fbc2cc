// A linear in coded form: w ~ diag(s_post) Q diag(s_pre), where Q is made of terms over runs of
// columns, each a short code per few weights. Knows what was fitted and its packed form; how codes
// are found is fit_coded.h's.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "formats/format.h"
#include "formats/packed/pack.h"
#include "io/safetensors.h"

namespace subbit {

/// 256 vectors of `width` columns that terms point into. A model has few of them and all its
/// linears share them.
struct Table {
  int64_t width = 0;            // 4, 8 or 16
  std::vector<int8_t> entries;  // [256, width]
};

/// The power of two that entries are multiplied by to be of about the size one: their products with
/// it are exact, also as bfloat16.
float table_gain(const Table& table);

/// Tables as packed weights find them. The tables must outlive this, and this what it gives.
class TableTensors {
 public:
  explicit TableTensors(std::span<const Table> tables);
  SharedTables shared() const;

 private:
  std::vector<TensorView> views_;
};

enum class Coding : uint8_t {
  kSign,    // +1 or -1: 1 bit
  kCode84,  // a word of the [8,4,4] code as eight signs: half a bit
  kTable,   // a vector of a table: 8 / width bits
};

/// One term of Q. Several terms over the same columns add up.
struct CodedTerm {
  Coding coding = Coding::kSign;
  int64_t first_column = 0;
  int64_t columns = 0;
  float gain = 1.0f;
  int64_t table = 0;  // kTable: index into the model's tables
  /// Row-major. kSign: [rows, columns], 1 is +1. kCode84: [rows, columns / 8], the word's index,
  /// 0..15. kTable: [rows, ceil(columns / width)].
  std::vector<uint8_t> codes;
};

/// Columns that no term covers are zero.
struct CodedFit {
  Shape shape;
  std::vector<CodedTerm> terms;
  std::vector<float> s_post;  // [rows]
  std::vector<float> s_pre;   // [cols]
  double weight_error = 0.0;  // ||w - what||^2 / ||w||^2
  /// The same of what both make of the inputs: by their covariance where it is known, else by their
  /// second moments.
  double output_error = 0.0;
};

/// Where the columns of one code lie.
struct CodedPiece {
  std::array<int64_t, 16> columns{};  // of the linear
  int64_t width = 0;                  // how many of them; the last piece of a row may be short
};

/// What the columns of a term of code words are a multiple of.
inline constexpr int64_t kCodeWordColumns = 256;

/// How the codes of a term lie in a row of its columns.
struct CodeLayout {
  int64_t pieces = 0;
  int64_t width = 0;   // of a whole piece
  int64_t stride = 1;  // between a piece's columns

  int64_t first_of(int64_t piece) const {
    return stride == 1 ? piece * width : piece / stride * stride * width + piece % stride;
  }
  int64_t width_of(int64_t piece, int64_t columns) const {
    return stride == 1 ? std::min(width, columns - piece * width) : width;
  }
};
CodeLayout layout_of(const CodedTerm& term, std::span<const Table> tables);

/// How a term cuts its columns into pieces of one code each.
int64_t pieces_of(const CodedTerm& term, std::span<const Table> tables);
CodedPiece piece_at(const CodedTerm& term, std::span<const Table> tables, int64_t piece);
/// The entries a code chooses from, [count, width]: +-1, or the table's integers.
std::vector<float> entries_of(const CodedTerm& term, std::span<const Table> tables);

/// Row i of Q.
std::vector<float> coded_row(const CodedFit& fit, std::span<const Table> tables, int64_t i);

/// Terms before they are fitted: their codes are missing. A table term takes the table of its
/// width. Throws (CHECK) when a kind is none of these codings.
std::vector<CodedTerm> coded_terms(const PackedSize& size, std::span<const Table> tables);
/// Whether `size` is made of coded terms alone.
bool is_coded(const PackedSize& size);
/// One term of a coded linear before it is fitted.
PackedSize::Term coded_term(Coding coding, int64_t first_column, int64_t columns,
                            int64_t table_width = 0);

std::vector<std::byte> pack_coded(const CodedFit& fit, std::span<const Table> tables,
                                  bool own_pre_scale, std::vector<float> bias);

/// The inverse of pack_coded, up to the rounding of scales to halves: the gains come back such that
/// that of the first term is what it was, the rest of it in s_post. `bytes` aligned to 4. Throws
/// kCorruptFile, kUnsupportedFormat.
CodedFit unpack_coded(std::span<const std::byte> bytes, const std::string& where,
                      std::span<const Table> tables, std::vector<float>& bias);

/// Reads `bytes` back as the runtime will and compares rows spread over the matrix with the fit.
/// Throws kInternal, naming `where`, when an element is off by more than the rounding of its two
/// half scales.
void verify_coded(std::span<const std::byte> bytes, const CodedFit& fit,
                  std::span<const Table> tables, const std::string& where);

}  // namespace subbit
