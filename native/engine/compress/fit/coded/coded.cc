// How terms cut columns into pieces, and the two-way translation between a fit and packed terms.
#include "compress/fit/coded/coded.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/check.h"
#include "formats/code84/code84.h"
#include "formats/packed/packed.h"
#include "formats/registry.h"
#include "formats/signs/index_matrix.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

constexpr int64_t kVerifiedRows = 32;

const char* kind_name(Coding coding) {
  switch (coding) {
    case Coding::kSign:
      return "sign";
    case Coding::kCode84:
      return "code84";
    case Coding::kTable:
      return "table";
  }
  return "";
}

uint8_t tag_of(Coding coding) {
  const TermKind* kind = find_term_kind(kind_name(coding));
  CHECK(kind != nullptr);
  return kind->tag();
}

const Coding* coding_of(uint8_t tag) {
  static constexpr Coding codings[] = {Coding::kSign, Coding::kCode84, Coding::kTable};
  for (const Coding& coding : codings)
    if (tag_of(coding) == tag) return &coding;
  return nullptr;
}

const Table& table_of(const CodedTerm& term, std::span<const Table> tables) {
  CHECK(term.table >= 0 && term.table < std::ssize(tables));
  return tables[static_cast<size_t>(term.table)];
}

int64_t rows_of(const CodedTerm& term, std::span<const Table> tables) {
  return std::ssize(term.codes) / pieces_of(term, tables);
}

/// The stored signs of code words: bit k of a word belongs in stored word k of its block.
SignMatrix stored_code84(const CodedTerm& term, int64_t rows) {
  SignMatrix stored{rows, term.columns / 2, {}};
  stored.bits.resize(static_cast<size_t>(stored.rows * stored.cols));
  const int64_t pieces = term.columns / kCode84Length;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t p = 0; p < pieces; ++p) {
      const unsigned code = term.codes[static_cast<size_t>(i * pieces + p)];
      const int64_t block = p / kChunk * kCode84Stored;
      for (int64_t k = 0; k < kCode84Stored / kChunk; ++k)
        stored.bits[static_cast<size_t>(i * stored.cols + block + k * kChunk + p % kChunk)] =
            static_cast<uint8_t>(code >> k & 1u);
    }
  }
  return stored;
}

PackedTerm packed_term(const CodedTerm& term, std::span<const Table> tables) {
  const int64_t rows = rows_of(term, tables);
  PackedTerm packed;
  packed.kind = tag_of(term.coding);
  packed.first_column = term.first_column;
  packed.columns = term.columns;
  packed.gain = term.gain;
  switch (term.coding) {
    case Coding::kSign:
      packed.matrices.push_back({rows, term.columns, term.codes});
      break;
    case Coding::kCode84:
      packed.matrices.push_back(stored_code84(term, rows));
      break;
    case Coding::kTable:
      packed.table_number = static_cast<int>(term.table);
      packed.table_width = table_of(term, tables).width;
      packed.indices = {rows, pieces_of(term, tables), term.codes};
      break;
  }
  return packed;
}

void read_codes(const TermView& view, int64_t rows, std::span<const Table> tables,
                CodedTerm& term) {
  const int64_t pieces = pieces_of(term, tables);
  term.codes.resize(static_cast<size_t>(rows * pieces));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t p = 0; p < pieces; ++p) {
      unsigned code = 0;
      if (term.coding == Coding::kSign) {
        code = unpack_sign(view.words, i, p, term.columns) > 0;
      } else if (term.coding == Coding::kCode84) {
        const int64_t first = p / kChunk * kCode84Stored + p % kChunk;
        for (int64_t k = 0; k < kCode84Stored / kChunk; ++k)
          code |= (unpack_sign(view.words, i, first + k * kChunk, term.columns / 2) > 0 ? 1u : 0u)
                  << k;
      } else {
        code = static_cast<unsigned>(view.words[static_cast<size_t>(index_offset(i, p, pieces))]);
      }
      term.codes[static_cast<size_t>(i * pieces + p)] = static_cast<uint8_t>(code);
    }
  }
}

float largest(std::span<const float> values) {
  float result = 0.0f;
  for (const float x : values) result = std::max(result, std::fabs(x));
  return result;
}

}  // namespace

static_assert(kCodeWordColumns == kCode84Columns);

CodeLayout layout_of(const CodedTerm& term, std::span<const Table> tables) {
  const int64_t pieces = pieces_of(term, tables);
  switch (term.coding) {
    case Coding::kSign:
      return {pieces, 1, 1};
    case Coding::kCode84:
      return {pieces, kCode84Length, kChunk};
    case Coding::kTable:
      return {pieces, table_of(term, tables).width, 1};
  }
  return {};
}

int64_t pieces_of(const CodedTerm& term, std::span<const Table> tables) {
  switch (term.coding) {
    case Coding::kSign:
      return term.columns;
    case Coding::kCode84:
      return term.columns / kCode84Length;
    case Coding::kTable:
      return vectors_of(term.columns, table_of(term, tables).width);
  }
  return 0;
}

CodedPiece piece_at(const CodedTerm& term, std::span<const Table> tables, int64_t piece) {
  const CodeLayout layout = layout_of(term, tables);
  CodedPiece result;
  result.width = layout.width_of(piece, term.columns);
  for (int64_t k = 0; k < result.width; ++k)
    result.columns[static_cast<size_t>(k)] =
        term.first_column + layout.first_of(piece) + k * layout.stride;
  return result;
}

std::vector<float> entries_of(const CodedTerm& term, std::span<const Table> tables) {
  switch (term.coding) {
    case Coding::kSign:
      return {-1.0f, 1.0f};
    case Coding::kCode84: {
      std::vector<float> entries;
      for (int code = 0; code < kCode84Words; ++code)
        for (const int8_t sign : code84_signs(static_cast<uint8_t>(code))) entries.push_back(sign);
      return entries;
    }
    case Coding::kTable: {
      const Table& table = table_of(term, tables);
      return {table.entries.begin(), table.entries.end()};
    }
  }
  return {};
}

std::vector<float> coded_row(const CodedFit& fit, std::span<const Table> tables, int64_t i) {
  std::vector<float> row(static_cast<size_t>(fit.shape.cols), 0.0f);
  for (const CodedTerm& term : fit.terms) {
    const std::vector<float> entries = entries_of(term, tables);
    const int64_t whole = layout_of(term, tables).width;
    const int64_t pieces = pieces_of(term, tables);
    for (int64_t p = 0; p < pieces; ++p) {
      const CodedPiece piece = piece_at(term, tables, p);
      const int64_t code = term.codes[static_cast<size_t>(i * pieces + p)];
      for (int64_t k = 0; k < piece.width; ++k)
        row[static_cast<size_t>(piece.columns[static_cast<size_t>(k)])] +=
            term.gain * entries[static_cast<size_t>(code * whole + k)];
    }
  }
  return row;
}

std::vector<CodedTerm> coded_terms(const PackedSize& size, std::span<const Table> tables) {
  std::vector<CodedTerm> terms;
  for (const PackedSize::Term& planned : size.terms) {
    const Coding* coding = coding_of(planned.kind);
    CHECK(coding != nullptr);
    CodedTerm& term = terms.emplace_back();
    term.coding = *coding;
    term.first_column = planned.first_column;
    term.columns = planned.columns;
    if (term.coding != Coding::kTable) continue;
    while (term.table < std::ssize(tables) && table_of(term, tables).width != planned.table_width)
      ++term.table;
    CHECK(term.table < std::ssize(tables));
  }
  return terms;
}

bool is_coded(const PackedSize& size) {
  return !size.terms.empty() &&
         std::all_of(size.terms.begin(), size.terms.end(),
                     [](const PackedSize::Term& term) { return coding_of(term.kind) != nullptr; });
}

PackedSize::Term coded_term(Coding coding, int64_t first_column, int64_t columns,
                            int64_t table_width) {
  return {tag_of(coding), 0, columns, false, first_column, table_width};
}

std::vector<std::byte> pack_coded(const CodedFit& fit, std::span<const Table> tables,
                                  bool own_pre_scale, std::vector<float> bias) {
  PackedLinear linear;
  linear.shape = fit.shape;
  linear.bias = std::move(bias);
  linear.s_post = fit.s_post;
  if (own_pre_scale) linear.s_pre = fit.s_pre;
  for (const CodedTerm& term : fit.terms) linear.terms.push_back(packed_term(term, tables));
  return pack(linear);
}

CodedFit unpack_coded(std::span<const std::byte> bytes, const std::string& where,
                      std::span<const Table> tables, std::vector<float>& bias) {
  const TableTensors tensors(tables);
  const PackedView view = parse_packed(bytes, where, tensors.shared());
  CodedFit fit;
  fit.shape = view.shape;
  float first_gain = 1.0f;
  for (const PackedView::Term& packed : view.terms) {
    const Coding* coding = coding_of(packed.kind->tag());
    if (coding == nullptr) {
      throw Error(ErrorCode::kUnsupportedFormat, where + " has a term that is no code",
                  {{"tensor", where}, {"actual", describe_packed(view)}});
    }
    CodedTerm& term = fit.terms.emplace_back();
    term.coding = *coding;
    term.first_column = packed.view.first_column;
    term.columns = packed.view.shape.columns;
    term.table = packed.view.table_number;
    // The factor that makes its entries of about the size one.
    const float unit =
        term.coding == Coding::kTable ? table_gain(tables[static_cast<size_t>(term.table)]) : 1.0f;
    if (fit.terms.size() == 1) first_gain = packed.view.gain / unit;
    term.gain = packed.view.gain / first_gain;
    read_codes(packed.view, fit.shape.rows, tables, term);
  }
  for (const Half scale : view.s_post) fit.s_post.push_back(to_float(scale) * first_gain);
  fit.s_pre.assign(static_cast<size_t>(view.shape.cols), 1.0f);
  for (size_t j = 0; j < view.s_pre.size(); ++j) fit.s_pre[j] = to_float(view.s_pre[j]);
  bias.assign(view.bias.begin(), view.bias.end());
  return fit;
}

void verify_coded(std::span<const std::byte> bytes, const CodedFit& fit,
                  std::span<const Table> tables, const std::string& where) {
  const TableTensors tensors(tables);
  TensorView tensor{where, DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes};
  const std::unique_ptr<Weight> weight =
      find_format("packed")->view(tensor, fit.shape, tensors.shared());
  const float post_max = largest(fit.s_post);
  const float pre_max = largest(fit.s_pre);
  std::vector<float> row(static_cast<size_t>(fit.shape.cols));
  const int64_t stride = std::max<int64_t>(1, fit.shape.rows / kVerifiedRows);
  for (int64_t i = 0; i < fit.shape.rows; i += stride) {
    weight->unpack_rows(i, {row.data(), 1, fit.shape.cols});
    const std::vector<float> q = coded_row(fit, tables, i);
    for (size_t j = 0; j < row.size(); ++j) {
      const float expected = fit.s_post[static_cast<size_t>(i)] * q[j] * fit.s_pre[j];
      // Two halves, each within 2^-11 of its value, and what lies below 2^-28 of the largest
      // scale becomes zero.
      const float rounding = std::fabs(expected) * 1.01f * 0x1p-10f;
      const float flushed = std::fabs(q[j]) * post_max * pre_max * 0x1p-28f;
      if (std::fabs(row[j] - expected) <= rounding + flushed) continue;
      throw Error(ErrorCode::kInternal, "the packed bytes of " + where + " differ from the fit",
                  {{"tensor", where},
                   {"expected", std::to_string(expected)},
                   {"actual", std::to_string(row[j])}});
    }
  }
}

TableTensors::TableTensors(std::span<const Table> tables) {
  for (size_t t = 0; t < tables.size(); ++t) {
    TensorView& view = views_.emplace_back();
    view.name = shared_table_name(static_cast<int>(t));
    view.dtype = DType::kI8;
    view.shape = {kTableEntries, tables[t].width};
    view.bytes = std::as_bytes(std::span(tables[t].entries));
  }
}

SharedTables TableTensors::shared() const {
  return [this](int number) -> const TensorView* {
    return number < std::ssize(views_) ? &views_[static_cast<size_t>(number)] : nullptr;
  };
}

float table_gain(const Table& table) {
  double sum = 0.0;
  for (const int8_t entry : table.entries) sum += static_cast<double>(entry) * entry;
  if (!(sum > 0.0)) return 1.0f;
  const double mean = sum / static_cast<double>(table.entries.size());
  return std::ldexp(1.0f, -std::ilogb(mean) / 2);
}

}  // namespace subbit
