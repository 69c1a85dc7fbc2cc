// A packed linear as a Weight. From one vector of codes every term gives int32 sums, the same on
// every back end; floats begin at the epilogue, which is written out operation by operation:
//
//   G_t = ldexp(gain_t, E_t) * rho        rho: the input's row scale
//   acc = float(I_0) * G_0;  acc = fma(float(I_t), G_t, acc) in file order
//   y = acc * s_post;  y = y + bias;  y = h + y
#include "formats/packed/packed.h"

#include <cmath>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_dot.h"

namespace subbit {
namespace {

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
  void multiply(const LinearInput& in, Matrix out, OutputMode mode,
                ThreadPool& pool) const override;

 private:
  SignOperand operand_for(const LinearInput& in, ThreadPool& pool) const;
  void epilogue(int64_t token, std::span<const MatrixView<int32_t>> sums,
                std::span<const float> gains, float* y, OutputMode mode) const;

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

SignOperand PackedWeight::operand_for(const LinearInput& in, ThreadPool& pool) const {
  SignOperand operand;
  if (s_pre_.empty()) {
    CHECK(in.quantized != nullptr && in.quantized->cols == shape().cols);
    load_sign_operand(*in.quantized, operand);
    return operand;
  }
  Buffer<float> scaled(in.values.rows * in.values.cols);
  const Matrix view(scaled.data(), in.values.rows, in.values.cols);
  for (int64_t t = 0; t < view.rows; ++t) {
    for (int64_t j = 0; j < view.cols; ++j) {
      view.at(t, j) = in.values.at(t, j) * s_pre_[static_cast<size_t>(j)];
    }
  }
  QuantizedRows codes;
  quantize_rows(view, codes, pool);
  load_sign_operand(codes, operand);
  return operand;
}

void PackedWeight::epilogue(int64_t token, std::span<const MatrixView<int32_t>> sums,
                            std::span<const float> gains, float* y, OutputMode mode) const {
  const int64_t rows = shape().rows;
  for (int64_t i = 0; i < rows; ++i) {
    float acc = static_cast<float>(sums[0].at(token, i)) * gains[0];
    for (size_t t = 1; t < sums.size(); ++t) {
      acc = std::fma(static_cast<float>(sums[t].at(token, i)), gains[t], acc);
    }
    float value = acc * s_post_[static_cast<size_t>(i)];
    if (!view_.bias.empty()) value += view_.bias[static_cast<size_t>(i)];
    y[i] = mode == OutputMode::kAdd ? y[i] + value : value;
  }
}

void PackedWeight::multiply(const LinearInput& in, Matrix out, OutputMode mode,
                            ThreadPool& pool) const {
  const int64_t tokens = in.values.rows;
  const int64_t rows = shape().rows;
  const size_t terms = view_.terms.size();
  CHECK(out.rows == tokens && out.cols == rows);
  const SignOperand operand = operand_for(in, pool);

  Buffer<int32_t> all_sums(static_cast<int64_t>(terms) * tokens * rows);
  std::vector<int32_t> exponents(static_cast<size_t>(tokens));
  std::vector<MatrixView<int32_t>> sums(terms);
  std::vector<float> gains(static_cast<size_t>(tokens) * terms);
  for (size_t t = 0; t < terms; ++t) {
    const auto& [kind, term] = view_.terms[t];
    sums[t] = {all_sums.data() + static_cast<int64_t>(t) * tokens * rows, tokens, rows};
    kind->multiply(term, operand, {sums[t], exponents}, pool);
    for (int64_t token = 0; token < tokens; ++token) {
      const float rho = in.row_scale == nullptr ? 1.0f : in.row_scale[token];
      const float gain = std::ldexp(term.gain, exponents[static_cast<size_t>(token)]) * rho;
      if (!std::isnormal(gain)) {
        throw Error(ErrorCode::kNonFinite, "the scale of a linear's output is not a normal number");
      }
      gains[static_cast<size_t>(token) * terms + t] = gain;
    }
  }
  pool.parallel_for(tokens, 1, [&](Range range) {
    for (int64_t token = range.begin; token < range.end; ++token) {
      epilogue(token, sums, std::span(gains).subspan(static_cast<size_t>(token) * terms, terms),
               out.row(token), mode);
    }
  });
}

class PackedFormat final : public Format {
 public:
  std::string_view name() const override { return "packed"; }
  int layout_version() const override { return 1; }
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

}  // namespace

const Format& packed_format() {
  static const PackedFormat format;
  return format;
}

}  // namespace subbit
