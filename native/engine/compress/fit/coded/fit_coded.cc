// Error feedback as a walk to the nearest plane (Babai 1986; GPTQ, arXiv 2210.17323, is the same
// walk): with H = R R^T, R upper triangular, an output's error is |(w - q) R|^2, and column g of
// that product knows only columns up to g of q. So codes are chosen group by group, each with the
// best sum for its own columns given all before it:
//
//   y = (w R)_g - q_<g R_<g,g        min over codes of |y - q_g R_gg|
//
// Columns are put in order of falling importance, groups whole. Rows do not know each other.
#include "compress/fit/coded/fit_coded.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "base/buffer.h"
#include "base/check.h"
#include "base/wide_loop.h"
#include "compress/fit/coded/codebook.h"
#include "compress/fit/coded/tables.h"
#include "compress/fit/coded/ternary.h"
#include "linalg/cholesky.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 8;
/// Columns between which error is handed on inside a row; beyond, by one product for all rows.
constexpr int64_t kBlockColumns = 128;
/// What a term over columns that another covers already is worth at first: two signs then are four
/// even steps.
constexpr float kNextGain = 0.5f;

/// A matrix that owns its values.
struct Floats {
  Buffer<float> values;
  Matrix view;
  Floats(int64_t rows, int64_t cols) : values(rows * cols), view(values.data(), rows, cols) {}
};

/// Columns with one code in each term that covers them.
struct Group {
  std::vector<size_t> terms;
  int64_t piece = 0;
  CodedPiece columns;
  double importance = 0.0;
  int64_t first = 0;  // place of its first column in the order
};

/// A group with what its codes choose from.
struct Search {
  const Group* group = nullptr;
  std::vector<Codebook> codebooks;          // of its terms, as its columns see them
  std::vector<std::vector<float>> entries;  // the same, plain
  std::vector<int64_t> entry_width;
};

class Fit {
 public:
  Fit(ConstMatrix w, const InputStatistics& inputs, const CodedOptions& options, ThreadPool& pool);
  CodedFit run(const CodedStep& before_round);

 private:
  void make_groups();
  void put_in_order();
  double input_square(int64_t column) const;
  void factor_inputs();
  void choose_codes();
  void choose_codes_of(size_t first_group, size_t end_group);
  void choose_code(const Search& search, int64_t row, float* y);
  void refit_post();
  void refit_pre();
  double error();
  double weight_error() const;

  ConstMatrix source_;
  const InputStatistics& inputs_;
  const CodedOptions& options_;
  ThreadPool& pool_;
  CodedFit fit_;
  std::vector<Group> groups_;
  std::vector<int64_t> order_;  // [n]: the column at each place; uncovered ones are left out
  Floats w_;                    // columns in order
  Floats r_;                    // H = R R^T, upper triangular
  Floats target_;               // w R
  Floats q_;                    // what codes and scales now stand for
  Floats scratch_;
};

int64_t covered(const PackedSize& size) {
  std::vector<bool> columns(static_cast<size_t>(size.shape.cols), false);
  for (const PackedSize::Term& term : size.terms)
    for (int64_t j = 0; j < term.columns; ++j)
      columns[static_cast<size_t>(term.first_column + j)] = true;
  return std::count(columns.begin(), columns.end(), true);
}

Fit::Fit(ConstMatrix w, const InputStatistics& inputs, const CodedOptions& options,
         ThreadPool& pool)
    : source_(w),
      inputs_(inputs),
      options_(options),
      pool_(pool),
      w_(w.rows, covered(*options.size)),
      r_(w_.view.cols, w_.view.cols),
      target_(w.rows, w_.view.cols),
      q_(w.rows, w_.view.cols),
      scratch_(w.rows, w_.view.cols) {
  CHECK(options.size->shape == w.shape());
  CHECK(inputs.covariance.data == nullptr || inputs.covariance.shape() == (Shape{w.cols, w.cols}));
  fit_.shape = w.shape();
  fit_.terms = coded_terms(*options.size, options.tables);
  BalancedScales scales = balanced_scales(w, pool);
  fit_.s_post = std::move(scales.post);
  fit_.s_pre = std::move(scales.pre);
  make_groups();
  put_in_order();
  factor_inputs();
}

/// Terms that overlap cover the same columns in the same pieces.
void Fit::make_groups() {
  for (size_t t = 0; t < fit_.terms.size(); ++t) {
    CodedTerm& term = fit_.terms[t];
    const int64_t pieces = pieces_of(term, options_.tables);
    term.codes.assign(static_cast<size_t>(fit_.shape.rows * pieces), 0);
    term.gain = term.coding == Coding::kTable
                    ? table_gain(options_.tables[static_cast<size_t>(term.table)])
                    : 1.0f;
    const auto same = std::find_if(groups_.begin(), groups_.end(), [&](const Group& group) {
      return fit_.terms[group.terms[0]].first_column == term.first_column;
    });
    if (same != groups_.end()) {
      const CodedTerm& first = fit_.terms[same->terms[0]];
      CHECK(first.columns == term.columns && first.coding == term.coding);
      CHECK(first.table == term.table);
      term.gain = fit_.terms[same->terms.back()].gain * kNextGain;
      for (int64_t p = 0; p < pieces; ++p) (same + p)->terms.push_back(t);
      continue;
    }
    for (int64_t p = 0; p < pieces; ++p) {
      Group group;
      group.terms.push_back(t);
      group.piece = p;
      group.columns = piece_at(term, options_.tables, p);
      groups_.push_back(std::move(group));
    }
  }
}

double Fit::input_square(int64_t column) const {
  if (inputs_.covariance.data != nullptr) return inputs_.covariance.at(column, column);
  return inputs_.squares.empty() ? 1.0 : inputs_.squares[static_cast<size_t>(column)];
}

void Fit::put_in_order() {
  for (Group& group : groups_)
    for (int64_t k = 0; k < group.columns.width; ++k)
      group.importance += input_square(group.columns.columns[static_cast<size_t>(k)]);
  // Equals keep their order; libstdc++'s stable sort takes a buffer in a way that is deprecated.
  std::sort(groups_.begin(), groups_.end(), [](const Group& a, const Group& b) {
    return std::tie(b.importance, a.terms[0], a.piece) <
           std::tie(a.importance, b.terms[0], b.piece);
  });
  for (Group& group : groups_) {
    group.first = std::ssize(order_);
    const auto& columns = group.columns.columns;
    order_.insert(order_.end(), columns.begin(), columns.begin() + group.columns.width);
  }
  CHECK(std::ssize(order_) == w_.view.cols);
  for (int64_t i = 0; i < source_.rows; ++i)
    for (size_t j = 0; j < order_.size(); ++j)
      w_.view.at(i, static_cast<int64_t>(j)) = source_.at(i, order_[j]);
}

/// R by the Cholesky factor of H with both its axes turned round.
void Fit::factor_inputs() {
  const int64_t n = r_.view.cols;
  double mean = 0.0;
  for (const int64_t column : order_) mean += input_square(column) / static_cast<double>(n);
  if (!std::isfinite(mean))
    throw Error(ErrorCode::kNonFinite, "the importance of an input or output is not finite");
  if (!(mean > 0.0)) mean = 1.0;
  Floats turned(n, n);
  for (double damping = options_.damping;; damping *= 10.0) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t column = order_[static_cast<size_t>(n - 1 - j)];
      for (int64_t k = 0; k <= j; ++k) {
        const int64_t other = order_[static_cast<size_t>(n - 1 - k)];
        const bool same = k == j;
        const double product = same ? input_square(column) + damping * mean
                               : inputs_.covariance.data == nullptr
                                   ? 0.0
                                   : inputs_.covariance.at(column, other);
        turned.view.at(j, k) = static_cast<float>(product / mean);
      }
    }
    if (cholesky_factor(turned.view, pool_)) break;
    if (damping > 1.0)
      throw Error(ErrorCode::kNonFinite, "the covariance of the inputs cannot be factored");
  }
  for (int64_t j = 0; j < n; ++j)
    for (int64_t k = 0; k < n; ++k)
      r_.view.at(j, k) = k < j ? 0.0f : turned.view.at(n - 1 - j, n - 1 - k);
  gemm(w_.view, r_.view, target_.view, Accumulate::kOverwrite, pool_);
}

void Fit::choose_codes() {
  for (size_t first = 0; first < groups_.size();) {
    size_t end = first + 1;
    while (end < groups_.size() && groups_[end].first - groups_[first].first < kBlockColumns) ++end;
    choose_codes_of(first, end);
    first = end;
  }
}

/// The table of one term as a group's columns see it: times gain, scales and R_gg.
Codebook seen_codebook(const CodedFit& fit, const CodedTerm& term, const Group& group,
                       std::span<const Table> tables, ConstMatrix r) {
  const std::vector<float> entries = entries_of(term, tables);
  const CodedPiece& piece = group.columns;
  const int64_t whole = layout_of(term, tables).width;
  std::vector<float> seen;
  for (int64_t e = 0; e * whole < std::ssize(entries); ++e) {
    for (int64_t k = 0; k < piece.width; ++k) {
      double sum = 0.0;
      for (int64_t j = 0; j <= k; ++j) {
        const double pre = fit.s_pre[static_cast<size_t>(piece.columns[static_cast<size_t>(j)])];
        sum += entries[static_cast<size_t>(e * whole + j)] * pre *
               r.at(group.first + j, group.first + k);
      }
      seen.push_back(static_cast<float>(sum * term.gain));
    }
  }
  return Codebook(seen, piece.width);
}

/// Groups of one block of columns.
void Fit::choose_codes_of(size_t first_group, size_t end_group) {
  const int64_t begin = groups_[first_group].first;
  const int64_t end = groups_[end_group - 1].first + groups_[end_group - 1].columns.width;
  const int64_t width = end - begin;
  Floats before(source_.rows, width);
  if (begin > 0) {
    gemm(q_.view.cols_from(0, begin), r_.view.rows_from(0, begin).cols_from(begin, width),
         before.view, Accumulate::kOverwrite, pool_);
  } else {
    std::fill_n(before.values.data(), before.values.size(), 0.0f);
  }
  std::vector<Search> searches;
  for (size_t g = first_group; g < end_group; ++g) {
    Search& search = searches.emplace_back();
    search.group = &groups_[g];
    for (const size_t t : groups_[g].terms) {
      const CodedTerm& term = fit_.terms[t];
      search.codebooks.push_back(seen_codebook(fit_, term, groups_[g], options_.tables, r_.view));
      search.entries.push_back(entries_of(term, options_.tables));
      search.entry_width.push_back(layout_of(term, options_.tables).width);
    }
  }
  wide_parallel_for(pool_, source_.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (const Search& search : searches) {
        const Group& group = *search.group;
        const float* target = target_.view.row(i) + group.first;
        float* carried = before.view.row(i) + (group.first - begin);
        const float* q = q_.view.row(i);
        for (int64_t j = begin; j < group.first; ++j) {
          const float* r = r_.view.row(j) + group.first;
          for (int64_t k = 0; k < group.columns.width; ++k) carried[k] += q[j] * r[k];
        }
        float y[Codebook::kMostWidth];
        for (int64_t k = 0; k < group.columns.width; ++k) y[k] = target[k] - carried[k];
        choose_code(search, i, y);
      }
    }
  });
}

/// What is left of `y`, the sum that one row's group is to come to, goes from term to term.
void Fit::choose_code(const Search& search, int64_t row, float* y) {
  const Group& group = *search.group;
  const float post = fit_.s_post[static_cast<size_t>(row)];
  const float inverse = post != 0.0f ? 1.0f / post : 0.0f;
  float sum[Codebook::kMostWidth] = {};
  for (int64_t k = 0; k < group.columns.width; ++k) y[k] *= inverse;
  for (size_t t = 0; t < group.terms.size(); ++t) {
    CodedTerm& term = fit_.terms[group.terms[t]];
    const Codebook& codebook = search.codebooks[t];
    const uint8_t code = codebook.nearest(y);
    const int64_t pieces = std::ssize(term.codes) / source_.rows;
    term.codes[static_cast<size_t>(row * pieces + group.piece)] = code;
    const float* entry = search.entries[t].data() + code * search.entry_width[t];
    for (int64_t k = 0; k < group.columns.width; ++k) {
      y[k] -= codebook.entry(code)[k];
      sum[k] += term.gain * entry[k];
    }
  }
  for (int64_t k = 0; k < group.columns.width; ++k) {
    const int64_t column = group.columns.columns[static_cast<size_t>(k)];
    q_.view.at(row, group.first + k) = post * sum[k] * fit_.s_pre[static_cast<size_t>(column)];
  }
}

/// Each row's scale is the best there is for its codes.
void Fit::refit_post() {
  gemm(q_.view, r_.view, scratch_.view, Accumulate::kOverwrite, pool_);
  pool_.parallel_for(source_.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      double cross = 0.0;
      double square = 0.0;
      for (int64_t j = 0; j < scratch_.view.cols; ++j) {
        const double seen = scratch_.view.at(i, j);
        cross += seen * target_.view.at(i, j);
        square += seen * seen;
      }
      const double factor = square > 0.0 ? cross / square : 1.0;
      // A row that its codes turn round is a row they know nothing of.
      if (!(factor > 0.0)) continue;
      fit_.s_post[static_cast<size_t>(i)] *= static_cast<float>(factor);
      for (int64_t j = 0; j < q_.view.cols; ++j) q_.view.at(i, j) *= static_cast<float>(factor);
    }
  });
}

/// All columns' scales at once, the minimum of a quadratic: with b = q / pre,
/// (H * b^T b) pre = columns' sums of (w H) * b, products element by element.
void Fit::refit_pre() {
  const int64_t n = q_.view.cols;
  std::vector<float> inverse(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) {
    const float pre = fit_.s_pre[static_cast<size_t>(order_[static_cast<size_t>(j)])];
    inverse[static_cast<size_t>(j)] = pre != 0.0f ? 1.0f / pre : 0.0f;
  }
  Matrix b = scratch_.view;
  for (int64_t i = 0; i < b.rows; ++i)
    for (int64_t j = 0; j < n; ++j) b.at(i, j) = q_.view.at(i, j) * inverse[static_cast<size_t>(j)];
  Floats covariance(n, n);
  Floats products(n, n);
  gemm(r_.view, {r_.view, Transpose::kYes}, covariance.view, Accumulate::kOverwrite, pool_);
  gemm({b, Transpose::kYes}, b, products.view, Accumulate::kOverwrite, pool_);
  double mean = 0.0;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t k = 0; k < n; ++k) products.view.at(j, k) *= covariance.view.at(j, k);
    mean += products.view.at(j, j) / static_cast<double>(n);
  }
  // Towards the scales there are, by a little: a column without any input has none of its own.
  const auto pull = static_cast<float>(1e-3 * mean);
  if (!(mean > 0.0) || !std::isfinite(mean)) return;
  Floats right(n, 1);
  Floats seen(b.rows, n);
  gemm(target_.view, {r_.view, Transpose::kYes}, seen.view, Accumulate::kOverwrite, pool_);
  for (int64_t j = 0; j < n; ++j) {
    double sum = 0.0;
    for (int64_t i = 0; i < b.rows; ++i)
      sum += static_cast<double>(seen.view.at(i, j)) * b.at(i, j);
    const float pre = fit_.s_pre[static_cast<size_t>(order_[static_cast<size_t>(j)])];
    right.view.at(j, 0) = static_cast<float>(sum) + pull * pre;
    products.view.at(j, j) += pull;
  }
  if (!cholesky_factor(products.view, pool_)) return;
  cholesky_solve(products.view, right.view, pool_);
  for (int64_t j = 0; j < n; ++j) {
    const float pre = right.view.at(j, 0);
    fit_.s_pre[static_cast<size_t>(order_[static_cast<size_t>(j)])] = pre;
    for (int64_t i = 0; i < b.rows; ++i) q_.view.at(i, j) = b.at(i, j) * pre;
  }
}

/// Of the outputs, relative to what they are.
double Fit::error() {
  gemm(q_.view, r_.view, scratch_.view, Accumulate::kOverwrite, pool_);
  double miss = 0.0;
  double size = 0.0;
  for (int64_t i = 0; i < q_.view.rows; ++i) {
    for (int64_t j = 0; j < q_.view.cols; ++j) {
      const double target = target_.view.at(i, j);
      miss += (target - scratch_.view.at(i, j)) * (target - scratch_.view.at(i, j));
      size += target * target;
    }
  }
  return size > 0.0 ? miss / size : 0.0;
}

double Fit::weight_error() const {
  double miss = 0.0;
  double size = 0.0;
  for (int64_t i = 0; i < source_.rows; ++i)
    for (int64_t j = 0; j < source_.cols; ++j)
      size += static_cast<double>(source_.at(i, j)) * source_.at(i, j);
  double part = 0.0;
  for (int64_t i = 0; i < source_.rows; ++i) {
    for (int64_t j = 0; j < w_.view.cols; ++j) {
      const double value = w_.view.at(i, j);
      miss += (value - q_.view.at(i, j)) * (value - q_.view.at(i, j));
      part += value * value;
    }
  }
  return size > 0.0 ? (miss + std::max(0.0, size - part)) / size : 0.0;
}

CodedFit Fit::run(const CodedStep& before_round) {
  std::optional<CodedFit> best;
  for (int round = 0; round < options_.rounds; ++round) {
    before_round(round);
    choose_codes();
    refit_post();
    refit_pre();
    refit_post();
    const double now = error();
    if (best.has_value() && !(now < best->output_error)) continue;
    fit_.output_error = now;
    fit_.weight_error = weight_error();
    best = fit_;
  }
  CHECK(best.has_value());
  double square = 0.0;
  for (const float pre : best->s_pre) square += static_cast<double>(pre) * pre;
  const auto size = static_cast<float>(std::sqrt(square / static_cast<double>(best->s_pre.size())));
  if (!(size > 0.0f)) return *std::move(best);
  for (float& pre : best->s_pre) pre /= size;
  for (float& post : best->s_post) post *= size;
  return *std::move(best);
}

}  // namespace

CodedFit fit_coded(ConstMatrix w, const InputStatistics& inputs, const CodedOptions& options,
                   ThreadPool& pool, const CodedStep& before_round) {
  CHECK(options.size != nullptr && options.rounds > 0);
  if (std::optional<CodedFit> exact = exact_ternary(w, *options.size)) return *std::move(exact);
  return Fit(w, inputs, options, pool).run(before_round);
}

}  // namespace subbit
