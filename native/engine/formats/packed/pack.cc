// Writing packed linears.
#include "formats/packed/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/half.h"
#include "formats/packed/layout.h"
#include "formats/registry.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

const TermKind& kind_of(uint8_t tag) {
  const TermKind* kind = find_term_kind(tag);
  CHECK(kind != nullptr);
  return *kind;
}

uint64_t vector_bytes(const PackedSize& size) {
  uint64_t bytes = 2 * static_cast<uint64_t>(size.shape.rows);
  if (size.bias) bytes += 4 * static_cast<uint64_t>(size.shape.rows);
  if (size.own_pre_scale) bytes += 2 * static_cast<uint64_t>(size.shape.cols);
  for (const auto& term : size.terms) {
    if (term.mid_scale) bytes += 2 * static_cast<uint64_t>(term.rank);
  }
  return bytes;
}

uint64_t words_bytes(const PackedSize& size) {
  uint64_t bytes = 0;
  for (const auto& term : size.terms) {
    bytes +=
        kind_of(term.kind).word_bytes({size.shape.rows, term.columns, term.rank, term.table_width});
  }
  return bytes;
}

/// A vector as halves whose largest magnitude lies in [2^14, 2^15), and the power of two taken out.
struct ScaledHalves {
  std::vector<Half> values;
  int exponent = 0;  // true value = half * 2^exponent
};

ScaledHalves scale_to_halves(const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) throw Error(ErrorCode::kNonFinite, "a scale is not a finite number");
    largest = std::max(largest, std::fabs(value));
  }
  ScaledHalves scaled;
  scaled.values.resize(values.size());
  if (largest == 0) return scaled;
  scaled.exponent = std::ilogb(largest) - 14;
  for (size_t i = 0; i < values.size(); ++i) {
    const float value = std::ldexp(values[i], -scaled.exponent);
    // Below 2^-14 a half would be denormal, which GPUs flush: the layout has no such values.
    scaled.values[i] = to_half(std::fabs(value) < 0x1p-14f ? 0.0f : value);
  }
  return scaled;
}

template <typename T>
void append(std::vector<std::byte>& out, std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

template <typename T>
void append_one(std::vector<std::byte>& out, const T& value) {
  append(out, std::span<const T>(&value, 1));
}

uint16_t parameter_of(const PackedTerm& term) {
  switch (kind_of(term.kind).parameter()) {
    case TermParameter::kNone:
      CHECK(term.rank == 0 && term.table_width == 0);
      return 0;
    case TermParameter::kRank:
      CHECK(term.rank > 0 && term.rank % kRankUnit == 0 && term.rank / kRankUnit <= UINT16_MAX);
      return static_cast<uint16_t>(term.rank / kRankUnit);
    case TermParameter::kTable:
      CHECK(term.table_width > 0 && term.table_width <= UINT8_MAX);
      CHECK(term.table_number >= 0 && term.table_number < kMostTables);
      return static_cast<uint16_t>(term.table_width | term.table_number << 8);
  }
  return 0;
}

void append_heads(const PackedLinear& linear, int gain_exponent, std::vector<std::byte>& out) {
  LinearHead head{};
  std::memcpy(head.magic, kPackedMagic, sizeof(head.magic));
  head.terms = static_cast<uint8_t>(linear.terms.size());
  head.flags = static_cast<uint8_t>((linear.s_pre.empty() ? 0 : kOwnPreScale) |
                                    (linear.bias.empty() ? 0 : kHasBias));
  head.rows = static_cast<uint32_t>(linear.shape.rows);
  head.cols = static_cast<uint32_t>(linear.shape.cols);
  append_one(out, head);
  for (const PackedTerm& term : linear.terms) {
    TermHead term_head{};
    term_head.kind = term.kind;
    term_head.flags = term.s_mid.empty() ? 0 : kHasMidScale;
    term_head.parameter = parameter_of(term);
    term_head.first_column = static_cast<uint32_t>(term.first_column);
    term_head.columns = static_cast<uint32_t>(term.columns);
    term_head.gain = std::ldexp(term.gain, gain_exponent);
    if (!std::isnormal(term_head.gain)) {
      throw Error(ErrorCode::kNonFinite, "the gain of a term is not a normal number",
                  {{"actual", std::to_string(term_head.gain)}});
    }
    append_one(out, term_head);
  }
}

}  // namespace

PackedSize packed_size(const PackedLinear& linear) {
  PackedSize size;
  size.shape = linear.shape;
  size.bias = !linear.bias.empty();
  size.own_pre_scale = !linear.s_pre.empty();
  for (const PackedTerm& term : linear.terms) {
    size.terms.push_back({term.kind, term.rank, term.columns, !term.s_mid.empty(),
                          term.first_column, term.table_width});
  }
  return size;
}

std::string describe_packed(const PackedSize& size) {
  std::string text;
  for (const PackedSize::Term& term : size.terms) {
    if (!text.empty()) text += " + ";
    text += kind_of(term.kind).name();
    if (term.rank > 0) text += " r=" + std::to_string(term.rank);
    if (term.table_width > 0) text += " d=" + std::to_string(term.table_width);
    if (term.columns != size.shape.cols) {
      text += " cols " + std::to_string(term.first_column) + "-" +
              std::to_string(term.first_column + term.columns - 1);
    }
  }
  return text;
}

uint64_t packed_bytes(const PackedSize& size) {
  const uint64_t words = words_bytes(size);
  const uint64_t alignment = section_alignment(words);
  const uint64_t heads = sizeof(LinearHead) + sizeof(TermHead) * size.terms.size();
  return align_up(heads + vector_bytes(size), alignment) + align_up(words, alignment);
}

std::vector<std::byte> pack(const PackedLinear& linear) {
  const PackedSize size = packed_size(linear);
  CHECK(!linear.terms.empty() && linear.terms.size() <= kMaxTerms);
  CHECK(static_cast<int64_t>(linear.s_post.size()) == linear.shape.rows);
  const uint64_t alignment = section_alignment(words_bytes(size));

  const ScaledHalves post = scale_to_halves(linear.s_post);
  const ScaledHalves pre = scale_to_halves(linear.s_pre);
  std::vector<std::byte> out;
  out.reserve(packed_bytes(size));
  append_heads(linear, post.exponent + pre.exponent, out);
  append(out, std::span<const float>(linear.bias));
  append(out, std::span<const Half>(post.values));
  append(out, std::span<const Half>(pre.values));
  for (const PackedTerm& term : linear.terms) {
    CHECK(term.s_mid.empty() || static_cast<int64_t>(term.s_mid.size()) == term.rank);
    const ScaledHalves mid = scale_to_halves(term.s_mid);
    append(out, std::span<const Half>(mid.values));
  }
  out.resize(align_up(out.size(), alignment));
  for (const PackedTerm& term : linear.terms) {
    CHECK(term.columns % kind_of(term.kind).column_unit() == 0);
    const size_t before = out.size();
    for (const SignMatrix& matrix : term.matrices) pack_signs(matrix, out);
    if (term.table_width > 0) pack_indices(term.indices, out);
    const TermShape shape = {linear.shape.rows, term.columns, term.rank, term.table_width};
    CHECK(out.size() - before == kind_of(term.kind).word_bytes(shape));
  }
  out.resize(align_up(out.size(), alignment));
  CHECK(out.size() == packed_bytes(size));
  return out;
}

}  // namespace subbit
