// Weighting, factorization and scale refits of one linear, and its translation into a packed term.
#include "compress/fit/factored/factored.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "compress/fit/factored/scales.h"
#include "formats/packed/packed.h"
#include "formats/registry.h"
#include "formats/signs/layout.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

/// Alternating refits settle to four digits within this many rounds (each gains less than a tenth
/// of the one before).
constexpr int kRefitRounds = 8;
constexpr int64_t kRowsPerTask = 8;
constexpr int64_t kVerifiedRows = 32;

/// h <- (1 - shrinkage) h + shrinkage mean(h), scaled to mean one; ones when h is empty or zero.
std::vector<float> damped(std::span<const float> h, int64_t count, float shrinkage) {
  CHECK(h.empty() || static_cast<int64_t>(h.size()) == count);
  double sum = 0.0;
  for (const float x : h) sum += x;
  if (!std::isfinite(sum))
    throw Error(ErrorCode::kNonFinite, "the importance of an input or output is not finite");
  std::vector<float> result(count, 1.0f);
  if (!(sum > 0.0)) return result;
  const double mean = sum / static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i)
    result[i] = static_cast<float>((1.0 - shrinkage) * (h[i] / mean) + shrinkage);
  return result;
}

/// diag(sqrt(rows)) w diag(sqrt(columns)); returns its sum of squares.
double weigh(ConstMatrix w, const ElementWeights& weights, Matrix out, ThreadPool& pool) {
  std::vector<double> squares(w.rows);
  pool.parallel_for(w.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const float row = std::sqrt(weights.rows[i]);
      squares[i] = 0.0;
      for (int64_t j = 0; j < w.cols; ++j) {
        out.at(i, j) = w.at(i, j) * row * std::sqrt(weights.columns[j]);
        squares[i] += static_cast<double>(out.at(i, j)) * out.at(i, j);
      }
    }
  });
  double sum = 0.0;
  for (const double x : squares) sum += x;
  return sum;
}

/// Makes the root mean square one: the factors start from standard normal values, and where those
/// are larger than the target by far, the first duals drown it.
void normalise(double squares, Matrix target, ThreadPool& pool) {
  if (!(squares > 0.0)) return;
  const double scale = std::sqrt(static_cast<double>(target.shape().count()) / squares);
  pool.parallel_for(target.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i)
      for (int64_t j = 0; j < target.cols; ++j)
        target.at(i, j) = static_cast<float>(target.at(i, j) * scale);
  });
}

void signs_to_floats(const SignMatrix& signs, Matrix out) {
  for (int64_t i = 0; i < signs.rows; ++i)
    for (int64_t j = 0; j < signs.cols; ++j)
      out.at(i, j) = signs.bits[i * signs.cols + j] ? 1.0f : -1.0f;
}

/// U V as floats: integers up to the rank, exact.
void multiply_signs(const SignMatrix& u, const SignMatrix& v, Matrix out, ThreadPool& pool) {
  Buffer<float> u_values(u.rows * u.cols);
  Buffer<float> v_values(v.rows * v.cols);
  const Matrix u_matrix(u_values.data(), u.rows, u.cols);
  const Matrix v_matrix(v_values.data(), v.rows, v.cols);
  signs_to_floats(u, u_matrix);
  signs_to_floats(v, v_matrix);
  gemm(u_matrix, v_matrix, out, Accumulate::kOverwrite, pool);
}

std::vector<float> unweighted(std::vector<float> scale, std::span<const float> weights) {
  for (size_t i = 0; i < scale.size(); ++i) scale[i] /= std::sqrt(weights[i]);
  return scale;
}

/// Row i of U V.
std::vector<float> product_row(const FactoredFit& fit, int64_t i) {
  std::vector<float> row(fit.v.cols, 0.0f);
  for (int64_t k = 0; k < fit.v.rows; ++k) {
    const uint8_t sign = fit.u.bits[i * fit.u.cols + k];
    const uint8_t* v = fit.v.bits.data() + k * fit.v.cols;
    for (int64_t j = 0; j < fit.v.cols; ++j) row[j] += v[j] == sign ? 1.0f : -1.0f;
  }
  return row;
}

float largest(std::span<const float> values) {
  float result = 0.0f;
  for (const float x : values) result = std::max(result, std::fabs(x));
  return result;
}

uint8_t factored_tag() {
  const TermKind* kind = find_term_kind("factored");
  CHECK(kind != nullptr);
  return kind->tag();
}

}  // namespace

FactoredFit fit_factored(ConstMatrix w, const Importance& importance,
                         const FactoredOptions& options, ThreadPool& pool,
                         const FitStep& before_iteration) {
  const std::vector<float> rows = damped(importance.outputs, w.rows, options.shrinkage);
  const std::vector<float> columns = damped(importance.inputs, w.cols, options.shrinkage);
  const ElementWeights weights{rows, columns};

  SignFactors factors;
  Buffer<float> product_values(w.rows * w.cols);
  const Matrix product(product_values.data(), w.rows, w.cols);
  const double squares = weigh(w, weights, product, pool);
  if (!std::isfinite(squares))
    throw Error(ErrorCode::kNonFinite, "a weight is not finite, or too large to be squared");
  normalise(squares, product, pool);
  // The product's memory holds the weighted target first: the two never live together.
  factors = factor_into_signs(product, {options.rank, options.iterations, options.seed}, pool,
                              before_iteration);
  multiply_signs(factors.u, factors.v, product, pool);

  Scales scales{unweighted(std::move(factors.row_scale), rows),
                unweighted(std::move(factors.column_scale), columns)};
  refit_scales(w, product, weights, kRefitRounds, scales, pool);
  balance_scales(scales);

  const std::vector<float> row_ones(w.rows, 1.0f);
  const std::vector<float> column_ones(w.cols, 1.0f);
  const std::span<const float> inputs = importance.inputs.empty() ? column_ones : importance.inputs;
  FactoredFit fit{std::move(factors.u), std::move(factors.v), {}, {}, 0.0, 0.0};
  fit.weight_error = relative_error(w, product, scales, {row_ones, column_ones}, pool);
  fit.output_error = relative_error(w, product, scales, {row_ones, inputs}, pool);
  fit.s_post = std::move(scales.post);
  fit.s_pre = std::move(scales.pre);
  return fit;
}

PackedSize::Term factored_term(Shape shape, int64_t rank) {
  return {factored_tag(), rank, shape.cols, false};
}

bool is_factored(const PackedSize& size) {
  return size.terms.size() == 1 && size.terms[0].kind == factored_tag() &&
         size.terms[0].columns == size.shape.cols;
}

std::vector<std::byte> pack_factored(const FactoredFit& fit, bool own_pre_scale,
                                     std::vector<float> bias) {
  PackedTerm term;
  term.kind = factored_tag();
  term.rank = fit.u.cols;
  term.columns = fit.v.cols;
  term.matrices = {fit.v, fit.u};
  PackedLinear linear;
  linear.shape = {fit.u.rows, fit.v.cols};
  linear.bias = std::move(bias);
  linear.s_post = fit.s_post;
  if (own_pre_scale) linear.s_pre = fit.s_pre;
  linear.terms.push_back(std::move(term));
  return pack(linear);
}

FactoredFit unpack_factored(std::span<const std::byte> bytes, const std::string& where,
                            std::vector<float>& bias) {
  const PackedView view = parse_packed(bytes, where);
  if (view.terms.size() != 1 || view.terms[0].kind->tag() != factored_tag()) {
    throw Error(ErrorCode::kUnsupportedFormat, where + " is not one factored term",
                {{"tensor", where}, {"actual", describe_packed(view)}});
  }
  const TermView& term = view.terms[0].view;
  const auto read = [&](std::span<const std::byte> words, int64_t rows, int64_t cols) {
    SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        signs.bits[static_cast<size_t>(i * cols + j)] = unpack_sign(words, i, j, cols) > 0;
    return signs;
  };
  const int64_t rank = term.shape.rank;
  const auto split = static_cast<size_t>(sign_bytes(rank, view.shape.cols));
  FactoredFit fit;
  fit.v = read(term.words.first(split), rank, view.shape.cols);
  fit.u = read(term.words.subspan(split), view.shape.rows, rank);
  for (const Half scale : view.s_post) fit.s_post.push_back(to_float(scale) * term.gain);
  fit.s_pre.assign(static_cast<size_t>(view.shape.cols), 1.0f);
  for (size_t j = 0; j < view.s_pre.size(); ++j) fit.s_pre[j] = to_float(view.s_pre[j]);
  bias.assign(view.bias.begin(), view.bias.end());
  return fit;
}

void verify_factored(std::span<const std::byte> bytes, const FactoredFit& fit,
                     const std::string& where) {
  const Shape shape{fit.u.rows, fit.v.cols};
  TensorView tensor{where, DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes};
  const std::unique_ptr<Weight> weight = find_format("packed")->view(tensor, shape);
  const float post_max = largest(fit.s_post);
  const float pre_max = largest(fit.s_pre);
  std::vector<float> row(shape.cols);
  const int64_t stride = std::max<int64_t>(1, shape.rows / kVerifiedRows);
  for (int64_t i = 0; i < shape.rows; i += stride) {
    weight->unpack_rows(i, {row.data(), 1, shape.cols});
    const std::vector<float> product = product_row(fit, i);
    for (int64_t j = 0; j < shape.cols; ++j) {
      const float expected = fit.s_post[i] * product[j] * fit.s_pre[j];
      // Two halves, each within 2^-11 of its value, and what lies below 2^-28 of the largest
      // scale becomes zero.
      const float rounding = std::fabs(expected) * 1.01f * 0x1p-10f;
      const float flushed = std::fabs(product[j]) * post_max * pre_max * 0x1p-28f;
      if (std::fabs(row[j] - expected) <= rounding + flushed) continue;
      throw Error(ErrorCode::kInternal, "the packed bytes of " + where + " differ from the fit",
                  {{"tensor", where},
                   {"expected", std::to_string(expected)},
                   {"actual", std::to_string(row[j])}});
    }
  }
}

}  // namespace subbit
