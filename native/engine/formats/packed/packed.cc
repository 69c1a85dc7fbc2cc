// A packed linear as a Weight. From one vector of codes every term gives int32 sums, the same on
// every back end; floats begin at the epilogue, which is written out operation by operation:
//
//   G_t = ldexp(gain_t, E_t) * rho        rho: the input's row scale
//   acc = float(I_0) * G_0;  acc = fma(float(I_t), G_t, acc) in file order
//   y = acc * s_post;  y = y + bias;  y = h + y
//
// The sums of two terms are held at a time, however many there are: before a third comes, the two
// before it become acc in the place of the first, so that scratch has a bound without bytes.
#include "formats/packed/packed.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "base/wide_loop.h"
#include "formats/signs/layout.h"
#include "formats/signs/multiply_scratch.h"

namespace subbit {
namespace {

/// What lies where the first term's sums do.
enum class FirstSum { kTerm, kAcc };

constexpr size_t kMostHeld = PlannedMatrix::kMostHeldTerms;

/// One token's sums of the terms held.
struct Sums {
  const int32_t* first = nullptr;  // [rows]
  int64_t stride = 0;              // to those of the second term
  FirstSum kind = FirstSum::kTerm;
};

class PackedWeight final : public Weight {
 public:
  PackedWeight(PackedView view, uint64_t bytes)
      : Weight(view.shape),
        view_(std::move(view)),
        bytes_(bytes),
        s_post_(view_.s_post.size()),
        s_pre_(view_.s_pre.size()) {
    for (size_t i = 0; i < s_post_.size(); ++i) s_post_[i] = to_float(view_.s_post[i]);
    for (size_t j = 0; j < s_pre_.size(); ++j) s_pre_[j] = to_float(view_.s_pre[j]);
  }

  std::string_view format() const override { return "packed"; }
  std::string describe() const override { return "packed: " + describe_packed(view_); }
  uint64_t packed_bytes() const override { return bytes_; }
  /// With an s_pre of its own the shared codes are not this linear's input: it makes its own.
  InputKind input_kind() const override {
    return s_pre_.empty() ? InputKind::kCodes : InputKind::kFloat;
  }
  std::span<const float> bias() const override { return view_.bias; }
  void unpack_rows(int64_t first_row, Matrix out) const override;
  StoredWeight stored() const override;
  void multiply(const LinearInput& in, Matrix out, OutputMode mode,
                ThreadPool& pool) const override;

 private:
  const SignOperand& operand_for(const LinearInput& in, MultiplyScratch& scratch,
                                 ThreadPool& pool) const;
  float gain_of(size_t t, const LinearInput& in, int64_t token, int32_t exponent) const;
  void epilogue(Range rows, const Sums& sums, std::span<const float> gains, float* y,
                OutputMode mode) const;
  void finish_rows(Range rows, const Sums& sums, std::span<const float> gains, float* y,
                   OutputMode mode) const;

  PackedView view_;
  uint64_t bytes_;
  std::vector<float> s_post_;
  std::vector<float> s_pre_;
};

void PackedWeight::unpack_rows(int64_t first_row, Matrix out) const {
  CHECK(out.cols == shape().cols);
  std::vector<float> term_values(static_cast<size_t>(out.rows * out.cols));
  for (int64_t i = 0; i < out.rows; ++i) std::fill_n(out.row(i), out.cols, 0.0f);
  for (const auto& [kind, term] : view_.terms) {
    const Matrix values(term_values.data(), out.rows, term.shape.columns);
    kind->unpack_rows(term, first_row, values);
    for (int64_t i = 0; i < out.rows; ++i) {
      for (int64_t j = 0; j < term.shape.columns; ++j) {
        const float scaled = values.at(i, j) * term.gain;
        out.at(i, term.first_column + j) += scaled;
      }
    }
  }
  for (int64_t i = 0; i < out.rows; ++i) {
    for (int64_t j = 0; j < out.cols; ++j) {
      out.at(i, j) *= s_post_[static_cast<size_t>(first_row + i)];
      if (!s_pre_.empty()) out.at(i, j) *= s_pre_[static_cast<size_t>(j)];
    }
  }
}

StoredWeight PackedWeight::stored() const {
  StoredWeight stored;
  stored.kind = StoredWeight::Kind::kPacked;
  stored.s_post = view_.s_post;
  stored.s_pre = view_.s_pre;
  for (const auto& [kind, term] : view_.terms) {
    stored.terms.push_back({static_cast<StoredWeight::TermTag>(kind->tag()), term});
  }
  return stored;
}

const SignOperand& PackedWeight::operand_for(const LinearInput& in, MultiplyScratch& scratch,
                                             ThreadPool& pool) const {
  if (s_pre_.empty()) {
    CHECK(in.quantized != nullptr && in.quantized->cols == shape().cols);
    if (scratch.loaded != in.quantized) load_sign_operand(*in.quantized, scratch.input, pool);
    scratch.loaded = in.quantized;
    return scratch.input;
  }
  const Matrix view(reserve(scratch.scaled, in.values.rows * in.values.cols), in.values.rows,
                    in.values.cols);
  for (int64_t t = 0; t < view.rows; ++t) {
    for (int64_t j = 0; j < view.cols; ++j) {
      view.at(t, j) = in.values.at(t, j) * s_pre_[static_cast<size_t>(j)];
    }
  }
  quantize_rows(view, scratch.scaled_codes, pool);
  load_sign_operand(scratch.scaled_codes, scratch.scaled_input, pool);
  return scratch.scaled_input;
}

constexpr int64_t kEpilogueRows = 256;  // whose values stay in the nearest cache
constexpr int64_t kPieceRows = 4096;    // of a prompt's epilogue, for one thread

/// What a sum stands for in acc: of the first term its integer times the gain, of an acc that took
/// its place the float itself.
float first_value(int32_t sum, float gain, FirstSum first) {
  return first == FirstSum::kAcc ? std::bit_cast<float>(sum) : static_cast<float>(sum) * gain;
}

/// The sums of the first term, or acc, and those of the term behind become acc, in place.
void add_up(int32_t* sums, int64_t sums_stride, std::span<const float> gains, int64_t rows,
            FirstSum first, ThreadPool& pool) {
  wide_parallel_for(pool, sums_stride / rows, 1, [&](Range range) {
    for (int64_t token = range.begin; token < range.end; ++token) {
      const float* gain = gains.data() + 2 * token;
      int32_t* acc = sums + token * rows;
      const int32_t* from = acc + sums_stride;
      for (int64_t i = 0; i < rows; ++i) {
        const float value = first_value(acc[i], gain[0], first);
        acc[i] = std::bit_cast<int32_t>(std::fma(static_cast<float>(from[i]), gain[1], value));
      }
    }
  });
}

/// `rows` of one token.
void PackedWeight::epilogue(Range rows, const Sums& sums, std::span<const float> gains, float* y,
                            OutputMode mode) const {
  run_wide([&] {
    for (int64_t begin = rows.begin; begin < rows.end; begin += kEpilogueRows)
      finish_rows({begin, std::min(begin + kEpilogueRows, rows.end)}, sums, gains, y, mode);
  });
}

/// At most kEpilogueRows.
inline void PackedWeight::finish_rows(Range rows, const Sums& sums, std::span<const float> gains,
                                      float* y, OutputMode mode) const {
  float values[kEpilogueRows];
  const int64_t count = rows.end - rows.begin;
  const float* post = s_post_.data() + rows.begin;
  const int32_t* from = sums.first + rows.begin;
  float* to = y + rows.begin;
  for (int64_t i = 0; i < count; ++i) values[i] = first_value(from[i], gains[0], sums.kind);
  for (size_t t = 1; t < gains.size(); ++t) {
    from += sums.stride;
    for (int64_t i = 0; i < count; ++i)
      values[i] = std::fma(static_cast<float>(from[i]), gains[t], values[i]);
  }
  for (int64_t i = 0; i < count; ++i) values[i] *= post[i];
  if (!view_.bias.empty()) {
    const float* bias = view_.bias.data() + rows.begin;
    for (int64_t i = 0; i < count; ++i) values[i] += bias[i];
  }
  if (mode == OutputMode::kAdd) {
    for (int64_t i = 0; i < count; ++i) to[i] += values[i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
  }
}

float PackedWeight::gain_of(size_t t, const LinearInput& in, int64_t token,
                            int32_t exponent) const {
  const float rho = in.row_scale == nullptr ? 1.0f : in.row_scale[token];
  const float gain = std::ldexp(view_.terms[t].view.gain, exponent) * rho;
  if (!std::isnormal(gain)) {
    throw Error(ErrorCode::kNonFinite, "the scale of a linear's output is not a normal number");
  }
  return gain;
}

void PackedWeight::multiply(const LinearInput& in, Matrix out, OutputMode mode,
                            ThreadPool& pool) const {
  const int64_t tokens = in.values.rows;
  const int64_t rows = shape().rows;
  const size_t terms = view_.terms.size();
  CHECK(out.rows == tokens && out.cols == rows);
  MultiplyScratch own;
  MultiplyScratch& scratch = in.scratch == nullptr ? own : *in.scratch;
  const SignOperand& operand = operand_for(in, scratch, pool);

  const int64_t sums_stride = tokens * rows;  // from a term to the next
  const size_t held = std::min<size_t>(terms, kMostHeld);
  int32_t* const sums = reserve(scratch.sums, static_cast<int64_t>(held) * sums_stride);
  const std::span<int32_t> exponents(reserve(scratch.exponents, tokens),
                                     static_cast<size_t>(tokens));
  float* const gains = reserve(scratch.gains, tokens * static_cast<int64_t>(held));
  const auto finish = [&](int64_t token, std::span<const float> token_gains, Range run) {
    epilogue(run, {sums + token * rows, sums_stride, terms > 2 ? FirstSum::kAcc : FirstSum::kTerm},
             token_gains, out.row(token), mode);
  };
  for (size_t t = 0; t < terms; ++t) {
    const auto& [kind, term] = view_.terms[t];
    if (t >= 2) {
      const auto first = t == 2 ? FirstSum::kTerm : FirstSum::kAcc;
      add_up(sums, sums_stride, {gains, static_cast<size_t>(2 * tokens)}, rows, first, pool);
    }
    const size_t place = std::min<size_t>(t, 1);
    const MatrixView<int32_t> term_sums(sums + static_cast<int64_t>(place) * sums_stride, tokens,
                                        rows);
    if (tokens == 1 && t + 1 == terms) {
      // Whoever has made the last sums finishes them, while they are in the nearest cache.
      const auto finish_run = [&](Range run) {
        float token_gains[kMostHeld];
        std::copy_n(gains, place, token_gains);
        token_gains[place] = gain_of(t, in, 0, exponents.front());
        finish(0, {token_gains, held}, run);
      };
      return kind->multiply(term, operand, {term_sums, exponents, finish_run}, scratch, pool);
    }
    kind->multiply(term, operand, {term_sums, exponents, {}}, scratch, pool);
    for (int64_t token = 0; token < tokens; ++token) {
      gains[static_cast<size_t>(token) * held + place] =
          gain_of(t, in, token, exponents[static_cast<size_t>(token)]);
    }
  }
  const int64_t pieces = (rows + kPieceRows - 1) / kPieceRows;
  const int64_t grain = std::max<int64_t>(1, kPieceRows / rows);
  pool.parallel_for(tokens * pieces, grain, [&](Range range) {
    for (int64_t piece = range.begin; piece < range.end; ++piece) {
      const int64_t token = piece / pieces;
      const int64_t first = piece % pieces * kPieceRows;
      finish(token, {gains + static_cast<size_t>(token) * held, held},
             {first, std::min(first + kPieceRows, rows)});
    }
  });
}

class PackedFormat final : public Format {
 public:
  std::string_view name() const override { return "packed"; }
  int layout_version() const override { return 1; }
  uint64_t scratch_bytes(std::span<const PlannedMatrix> matrices) const override;
  std::unique_ptr<Weight> view(const TensorView& tensor, Shape shape,
                               const SharedTables& tables) const override {
    if (tensor.dtype != DType::kU8 || tensor.shape.size() != 1) {
      throw Error(ErrorCode::kCorruptFile, "packed tensor " + tensor.name + " has the wrong type",
                  {{"tensor", tensor.name},
                   {"expected", "U8 of one dimension"},
                   {"actual", std::string(dtype_name(tensor.dtype))}});
    }
    PackedView view = parse_packed(tensor.bytes, tensor.name, tables);
    if (view.shape.cols != shape.cols || (shape.rows != 0 && view.shape.rows != shape.rows)) {
      const auto text = [](Shape s) {
        return std::to_string(s.rows) + " x " + std::to_string(s.cols);
      };
      throw Error(
          ErrorCode::kCorruptFile, "packed tensor " + tensor.name + " has the wrong shape",
          {{"tensor", tensor.name}, {"expected", text(shape)}, {"actual", text(view.shape)}});
    }
    return std::make_unique<PackedWeight>(std::move(view), tensor.bytes.size());
  }
};

/// The input's operand and, where a linear scales its own input, what that is made from; the sums
/// of each term; and the first stage of the widest factored term that so many bytes can hold: its
/// integers, their floats, and the operand made of them.
uint64_t PackedFormat::scratch_bytes(std::span<const PlannedMatrix> matrices) const {
  int64_t tokens = 0;
  int64_t columns = 0;
  int64_t outputs = 0;
  int64_t rank = 0;
  int terms = 1;
  for (const auto& [shape, bytes, most_tokens, most_terms] : matrices) {
    terms = std::max(terms, std::min(most_terms, PlannedMatrix::kMostHeldTerms));
    const auto sides = static_cast<uint64_t>(shape.rows + shape.cols);
    tokens = std::max(tokens, most_tokens);
    columns = std::max(columns, shape.cols);
    outputs = std::max(outputs, shape.rows);
    rank = std::max(rank, static_cast<int64_t>(8 * bytes / sides));
  }
  const auto floats = [&](int64_t count) {
    return sizeof(float) * static_cast<uint64_t>(tokens * count);
  };
  return sign_operand_bytes(tokens, columns) + floats(columns) +
         quantized_rows_bytes(tokens, columns) + static_cast<uint64_t>(terms) * floats(outputs) +
         2 * floats(rank) + quantized_rows_bytes(tokens, rank) + sign_operand_bytes(tokens, rank);
}

}  // namespace

const Format& packed_format() {
  static const PackedFormat format;
  return format;
}

}  // namespace subbit
