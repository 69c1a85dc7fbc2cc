// The coded fit against what a user would notice: nearer to the outputs than rounding, the same
// bytes on any number of threads, exact where codes can be, and packed as it was fitted.
#include "compress/fit/coded/fit_coded.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "compress/fit/coded/codebook.h"
#include "compress/fit/coded/tables.h"
#include "linalg/gemm.h"
#include "support/test.h"

namespace subbit {
namespace {

struct Values {
  std::vector<float> data;
  Matrix view;
  Values(int64_t rows, int64_t cols)
      : data(static_cast<size_t>(rows * cols)), view(data.data(), rows, cols) {}
};

Values gaussian(Shape shape, uint64_t seed) {
  Values values(shape.rows, shape.cols);
  Rng rng(seed);
  for (float& value : values.data) value = rng.normal();
  return values;
}

/// Inputs that share a few strong directions, as a transformer's do.
Values correlated_covariance(int64_t cols, ThreadPool& pool) {
  const int64_t samples = 4 * cols;
  Values common = gaussian({samples, 8}, 5);
  Values mixing = gaussian({8, cols}, 6);
  Values inputs = gaussian({samples, cols}, 7);
  gemm(common.view, mixing.view, inputs.view, Accumulate::kAdd, pool);
  for (int64_t i = 0; i < samples; ++i)
    for (int64_t j = 0; j < cols; ++j) inputs.view.at(i, j) *= 1.0f + static_cast<float>(j % 7);
  Values covariance(cols, cols);
  gemm({inputs.view, Transpose::kYes}, inputs.view, covariance.view, Accumulate::kOverwrite, pool);
  for (float& value : covariance.data) value /= static_cast<float>(samples);
  return covariance;
}

Table gaussian_table(int64_t width, ThreadPool& pool) {
  TableSamples samples{width, {}, {}};
  Rng rng(3);
  const Values w = gaussian({256, 256}, 9);
  add_samples(w.view, {}, 8192, rng, pool, samples);
  return learn_table(samples, 1, pool);
}

PackedSize size_of(Shape shape, std::vector<PackedSize::Term> terms) {
  PackedSize size;
  size.shape = shape;
  size.terms = std::move(terms);
  return size;
}

CodedFit fit(ConstMatrix w, const InputStatistics& inputs, const PackedSize& size,
             std::span<const Table> tables, ThreadPool& pool, int rounds = 3) {
  CodedOptions options;
  options.size = &size;
  options.tables = tables;
  options.rounds = rounds;
  return fit_coded(w, inputs, options, pool, [](int) {});
}

/// tr(E H E^T) / tr(W H W^T) of the fit, slowly.
double output_error(ConstMatrix w, const CodedFit& fit, std::span<const Table> tables,
                    ConstMatrix h) {
  double miss = 0.0;
  double size = 0.0;
  for (int64_t i = 0; i < w.rows; ++i) {
    const std::vector<float> q = coded_row(fit, tables, i);
    std::vector<double> error(q.size());
    for (int64_t j = 0; j < w.cols; ++j) {
      const auto at = static_cast<size_t>(j);
      error[at] = w.at(i, j) - double{fit.s_post[static_cast<size_t>(i)]} * q[at] * fit.s_pre[at];
    }
    for (int64_t j = 0; j < w.cols; ++j) {
      for (int64_t k = 0; k < w.cols; ++k) {
        miss += error[static_cast<size_t>(j)] * h.at(j, k) * error[static_cast<size_t>(k)];
        size += double{w.at(i, j)} * h.at(j, k) * w.at(i, k);
      }
    }
  }
  return miss / size;
}

TEST(a_codebook_finds_the_nearest_entry_and_the_first_of_equals) {
  Rng rng(1);
  for (const int64_t width : {1, 3, 4, 8, 16}) {
    for (const int64_t count : {2, 16, 255, 256}) {
      std::vector<float> entries;
      for (int64_t i = 0; i < count * width; ++i) entries.push_back(rng.normal());
      // A double of the first entry, which must never be chosen.
      std::copy_n(entries.begin(), width, entries.end() - width);
      const Codebook codebook(entries, width);
      for (int trial = 0; trial < 50; ++trial) {
        std::vector<float> v;
        for (int64_t j = 0; j < width; ++j)
          v.push_back(trial == 0 ? entries[static_cast<size_t>(j)] : rng.normal());
        std::vector<double> distances;
        for (int64_t e = 0; e < count; ++e) {
          double distance = 0.0;
          for (int64_t j = 0; j < width; ++j) {
            const double d =
                double{v[static_cast<size_t>(j)]} - entries[static_cast<size_t>(e * width + j)];
            distance += d * d;
          }
          distances.push_back(distance);
        }
        const uint8_t found = codebook.nearest(v.data());
        // Floats of size ten, a few roundings each.
        const double least = *std::min_element(distances.begin(), distances.end());
        EXPECT_NEAR(distances[found], least, 1e-4);
        EXPECT(found + 1 < count);
      }
    }
  }
}

TEST(a_table_learned_from_gaussian_pieces_is_as_good_as_theory_allows) {
  ThreadPool pool(2);
  // formats.md: 0.325 at 8 columns an index, on data the table has not seen.
  const Table table = gaussian_table(8, pool);
  const PackedSize size = size_of({128, 256}, {coded_term(Coding::kTable, 0, 256, 8)});
  const Values w = gaussian(size.shape, 21);
  const CodedFit fitted = fit(w.view, {}, size, std::span(&table, 1), pool);
  EXPECT(fitted.weight_error < 0.35);
  EXPECT(fitted.weight_error > 0.28);
}

TEST(learning_a_table_does_not_depend_on_threads) {
  ThreadPool one(1);
  ThreadPool four(4);
  EXPECT(gaussian_table(4, one).entries == gaussian_table(4, four).entries);
}

TEST(error_feedback_halves_the_output_error_of_correlated_inputs) {
  ThreadPool pool(2);
  const Table table = gaussian_table(8, pool);
  const Shape shape{96, 128};
  const Values w = gaussian(shape, 31);
  const Values h = correlated_covariance(shape.cols, pool);
  std::vector<float> squares;
  for (int64_t j = 0; j < shape.cols; ++j) squares.push_back(h.view.at(j, j));
  for (const PackedSize& size : {size_of(shape, {coded_term(Coding::kTable, 0, 128, 8)}),
                                 size_of(shape, {coded_term(Coding::kSign, 0, 128)})}) {
    const std::span<const Table> tables(&table, 1);
    const CodedFit plain = fit(w.view, {squares, {}}, size, tables, pool);
    const CodedFit fed = fit(w.view, {squares, h.view}, size, tables, pool);
    const double without = output_error(w.view, plain, tables, h.view);
    const double with = output_error(w.view, fed, tables, h.view);
    EXPECT(with < 0.5 * without);
    // The damping is in what the fit reports.
    EXPECT_NEAR(fed.output_error, with, 0.05 * with + 0.01);
  }
}

TEST(a_matrix_of_codes_and_scales_is_fitted_exactly) {
  ThreadPool pool(2);
  const Table table = gaussian_table(4, pool);
  const std::span<const Table> tables(&table, 1);
  Rng rng(12);
  for (const PackedSize& size : {size_of({13, 65}, {coded_term(Coding::kSign, 0, 65)}),
                                 size_of({9, 256}, {coded_term(Coding::kCode84, 0, 256)}),
                                 size_of({5, 288}, {coded_term(Coding::kCode84, 0, 256),
                                                    coded_term(Coding::kSign, 256, 32)})}) {
    CodedFit truth;
    truth.shape = size.shape;
    truth.terms = coded_terms(size, tables);
    for (CodedTerm& term : truth.terms) {
      term.codes.resize(static_cast<size_t>(truth.shape.rows * pieces_of(term, tables)));
      const int choices = term.coding == Coding::kSign ? 2 : 16;
      for (uint8_t& code : term.codes) code = static_cast<uint8_t>(rng.uniform() * choices);
    }
    Values w(size.shape.rows, size.shape.cols);
    std::vector<float> pre;
    for (int64_t j = 0; j < size.shape.cols; ++j)
      pre.push_back(static_cast<float>(0.5 + rng.uniform()));
    for (int64_t i = 0; i < size.shape.rows; ++i) {
      const auto post = static_cast<float>(0.5 + rng.uniform());
      const std::vector<float> q = coded_row(truth, tables, i);
      for (int64_t j = 0; j < size.shape.cols; ++j)
        w.view.at(i, j) = post * q[static_cast<size_t>(j)] * pre[static_cast<size_t>(j)];
    }
    const CodedFit fitted = fit(w.view, {}, size, tables, pool);
    EXPECT(fitted.weight_error < 1e-6);
    for (size_t t = 0; t < truth.terms.size(); ++t)
      EXPECT(fitted.terms[t].codes == truth.terms[t].codes);
  }
}

TEST(coded_fits_are_the_same_on_any_number_of_threads) {
  const Shape shape{70, 172};
  const Values w = gaussian(shape, 41);
  std::vector<CodedFit> fits;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const Table table = gaussian_table(8, pool);
    const Values h = correlated_covariance(shape.cols, pool);
    const PackedSize size =
        size_of(shape, {coded_term(Coding::kTable, 0, 64, 8), coded_term(Coding::kSign, 64, 108)});
    fits.push_back(fit(w.view, {{}, h.view}, size, std::span(&table, 1), pool));
  }
  for (size_t t = 0; t < fits[0].terms.size(); ++t)
    EXPECT(fits[0].terms[t].codes == fits[1].terms[t].codes);
  EXPECT(fits[0].s_post == fits[1].s_post);
  EXPECT(fits[0].s_pre == fits[1].s_pre);
}

TEST(packed_codes_read_back_as_they_were_fitted) {
  ThreadPool pool(2);
  const std::vector<Table> tables = {gaussian_table(8, pool), gaussian_table(16, pool)};
  const Shape shape{37, 348};
  const Values w = gaussian(shape, 51);
  for (const PackedSize& size :
       {size_of(shape,
                {coded_term(Coding::kTable, 0, 128, 16), coded_term(Coding::kTable, 128, 220, 8)}),
        size_of(shape, {coded_term(Coding::kCode84, 0, 256), coded_term(Coding::kSign, 256, 92)}),
        size_of(shape, {coded_term(Coding::kSign, 0, 348), coded_term(Coding::kSign, 0, 348)})}) {
    const CodedFit fitted = fit(w.view, {}, size, tables, pool);
    const std::vector<std::byte> bytes = pack_coded(fitted, tables, true, {});
    PackedSize whole = size;
    whole.own_pre_scale = true;
    EXPECT_EQ(bytes.size(), packed_bytes(whole));
    verify_coded(bytes, fitted, tables, "linear");
    std::vector<float> bias;
    const CodedFit back = unpack_coded(bytes, "linear", tables, bias);
    EXPECT(bias.empty());
    for (size_t t = 0; t < fitted.terms.size(); ++t) {
      EXPECT(back.terms[t].codes == fitted.terms[t].codes);
      EXPECT_NEAR(back.terms[t].gain, fitted.terms[t].gain, 1e-6 * fitted.terms[t].gain);
    }
    for (size_t i = 0; i < fitted.s_post.size(); ++i)
      EXPECT_NEAR(back.s_post[i] * back.s_pre[0], fitted.s_post[i] * fitted.s_pre[0],
                  1e-3 * std::fabs(fitted.s_post[i] * fitted.s_pre[0]));
    CodedFit wrong = fitted;
    wrong.terms[0].codes[0] ^= 1;
    EXPECT_ERROR(ErrorCode::kInternal, "differ from the fit",
                 verify_coded(bytes, wrong, tables, "linear"));
  }
}

TEST(a_weight_that_is_not_finite_is_refused) {
  ThreadPool pool(1);
  Values w = gaussian({8, 64}, 1);
  w.view.at(3, 5) = std::nanf("");
  const PackedSize size = size_of({8, 64}, {coded_term(Coding::kSign, 0, 64)});
  EXPECT_ERROR(ErrorCode::kNonFinite, "not finite", fit(w.view, {}, size, {}, pool));
}

TEST(rows_and_columns_of_zeros_stay_zero) {
  ThreadPool pool(1);
  Values w = gaussian({8, 64}, 1);
  for (int64_t j = 0; j < 64; ++j) w.view.at(2, j) = 0.0f;
  for (int64_t i = 0; i < 8; ++i) w.view.at(i, 7) = 0.0f;
  const PackedSize size = size_of({8, 64}, {coded_term(Coding::kSign, 0, 64)});
  const CodedFit fitted = fit(w.view, {}, size, {}, pool);
  EXPECT_EQ(fitted.s_post[2], 0.0f);
  EXPECT_EQ(fitted.s_pre[7], 0.0f);
}

}  // namespace
}  // namespace subbit
