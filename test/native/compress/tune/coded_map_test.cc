// Maps of codes: their products and gradients against sums written out, in integers and therefore
// exact; and that codes, tables and gains move to where the error is smaller.
#include "compress/tune/coded_map.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "base/rng.h"
#include "formats/term.h"
#include "support/test.h"

namespace subbit {
namespace {

/// A coded linear of small integers. Scales and gains are powers of two.
struct IntegerCodes {
  static constexpr int64_t kRows = 5;
  static constexpr int64_t kCols = 269;
  static constexpr int64_t kTokens = 3;

  /// A table whose last piece is short, code words 32 columns apart, and two signs on the rest.
  IntegerCodes() {
    Table table{4, {}};
    for (int64_t i = 0; i < kTableEntries * 4; ++i)
      table.entries.push_back(static_cast<int8_t>(std::floor(rng.uniform() * 7) - 3));
    tables.push_back(table);
    fit.shape = {kRows, kCols};
    fit.terms = {{Coding::kCode84, 0, 256, 1.0f, 0, {}},
                 {Coding::kTable, 256, 7, 0.5f, 0, {}},
                 {Coding::kSign, 263, 6, 1.0f, 0, {}},
                 {Coding::kSign, 263, 6, 0.5f, 0, {}}};
    for (CodedTerm& term : fit.terms) {
      const int choices = term.coding == Coding::kSign    ? 2
                          : term.coding == Coding::kTable ? 256
                                                          : 16;
      for (int64_t c = 0; c < kRows * pieces_of(term, tables); ++c)
        term.codes.push_back(static_cast<uint8_t>(rng.uniform() * choices));
    }
    fit.s_post = {1.0f, 2.0f, -1.0f, 0.5f, 0.25f};
    for (int64_t j = 0; j < kCols; ++j) fit.s_pre.push_back(j % 3 == 0 ? 2.0f : 1.0f);
    for (int64_t i = 0; i < kTokens * kCols; ++i) x.push_back(integer(4));
    for (int64_t i = 0; i < kTokens * kRows; ++i) grad_y.push_back(integer(3));
  }
  float integer(int largest) {
    return static_cast<float>(std::floor(rng.uniform() * (2 * largest + 1)) - largest);
  }
  FittedLinear linear() const {
    FittedLinear result;
    result.pre_scale = PreScale::kOwn;
    result.fit = fit;
    return result;
  }
  /// sum over tokens and rows of grad_y * y.
  double loss() const {
    double sum = 0.0;
    for (int64_t i = 0; i < kRows; ++i) {
      const std::vector<float> q = coded_row(fit, tables, i);
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t j = 0; j < kCols; ++j)
          sum += double{grad_y[static_cast<size_t>(t * kRows + i)]} *
                 fit.s_post[static_cast<size_t>(i)] * q[static_cast<size_t>(j)] *
                 fit.s_pre[static_cast<size_t>(j)] * x[static_cast<size_t>(t * kCols + j)];
    }
    return sum;
  }
  /// The loss is linear in every number.
  template <typename Number>
  double slope(Number& number) {
    const double before = loss();
    number = static_cast<Number>(number + 1);
    const double slope = loss() - before;
    number = static_cast<Number>(number - 1);
    return slope;
  }

  Rng rng{7};
  std::vector<Table> tables;
  CodedFit fit;
  std::vector<float> x;
  std::vector<float> grad_y;
};

TEST(a_coded_map_multiplies_and_passes_gradients_on_exactly) {
  for (const int threads : {1, 3}) {
    IntegerCodes m;
    ThreadPool pool(threads);
    TunedTables tables(m.tables);
    CodedMap map(m.linear(), tables, {0.3f, CodeRounding::kOn, nullptr}, pool);
    std::vector<float> saved(static_cast<size_t>(m.kTokens * map.saved_per_token()));
    std::vector<float> y(m.grad_y.size());
    std::vector<float> grad_x(m.x.size());
    const ConstMatrix x(m.x.data(), m.kTokens, m.kCols);
    const ConstMatrix grad_y(m.grad_y.data(), m.kTokens, m.kRows);
    map.forward(x, {y.data(), m.kTokens, m.kRows}, saved);
    map.backward(x, grad_y, saved, {grad_x.data(), m.kTokens, m.kCols});
    double mixed = 0.0;
    for (size_t i = 0; i < y.size(); ++i) mixed += double{m.grad_y[i]} * y[i];
    EXPECT_EQ(mixed, m.loss());
    for (size_t j = 0; j < m.x.size(); j += 7) EXPECT_EQ(grad_x[j], m.slope(m.x[j]));
    map.finish_gradients();
    const std::span<const float> of_table = tables.gradient(0);
    for (size_t e = 0; e < of_table.size(); ++e)
      if (of_table[e] != 0.0f || e % 16 == 0)
        EXPECT_EQ(of_table[e], m.slope(m.tables[0].entries[e]));
  }
}

TEST(what_gradients_add_up_to_is_what_slopes_do) {
  IntegerCodes m;
  ThreadPool pool(2);
  TunedTables tables(m.tables);
  CodedMap map(m.linear(), tables, {0.3f, CodeRounding::kOn, nullptr}, pool);
  std::vector<float> saved(static_cast<size_t>(m.kTokens * map.saved_per_token()));
  std::vector<float> y(m.grad_y.size());
  std::vector<float> grad_x(m.x.size());
  const ConstMatrix x(m.x.data(), m.kTokens, m.kCols);
  map.forward(x, {y.data(), m.kTokens, m.kRows}, saved);
  map.backward(x, {m.grad_y.data(), m.kTokens, m.kRows}, saved,
               {grad_x.data(), m.kTokens, m.kCols});
  double expected = 0.0;
  for (int64_t i = 0; i < m.kRows; ++i) {
    for (int64_t j = 0; j < m.kCols; ++j) {
      double own = 0.0;
      for (int64_t t = 0; t < m.kTokens; ++t)
        own += double{m.grad_y[static_cast<size_t>(t * m.kRows + i)]} *
               m.fit.s_pre[static_cast<size_t>(j)] * m.x[static_cast<size_t>(t * m.kCols + j)];
      own *= m.fit.s_post[static_cast<size_t>(i)];
      expected += own * own;
    }
  }
  const auto add = [&](std::vector<float> sizes, const auto& slope_of) {
    double mean = 0.0;
    for (const float size : sizes) mean += std::fabs(size) / static_cast<double>(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
      const double own = slope_of(i) * std::max(std::fabs(double{sizes[i]}), 0.1 * mean);
      expected += own * own;
    }
  };
  add(m.fit.s_post, [&](size_t i) { return m.slope(m.fit.s_post[i]); });
  add(m.fit.s_pre, [&](size_t j) { return m.slope(m.fit.s_pre[j]); });
  std::vector<float> gains;
  for (const CodedTerm& term : m.fit.terms) gains.push_back(term.gain);
  add(gains, [&](size_t t) { return m.slope(m.fit.terms[t].gain); });
  EXPECT_NEAR(map.finish_gradients(), expected, 1e-5 * expected);
}

TEST(latents_start_at_the_codes_they_were_given) {
  IntegerCodes m;
  ThreadPool pool(2);
  TunedTables tables(m.tables);
  for (const float start : {0.05f, 1.0f}) {
    CodedMap map(m.linear(), tables, {start, CodeRounding::kOn, nullptr}, pool);
    // A step of no length: codes are searched for again.
    std::vector<float> saved(static_cast<size_t>(m.kTokens * map.saved_per_token()));
    std::vector<float> y(m.grad_y.size());
    std::vector<float> grad_x(m.x.size());
    const ConstMatrix x(m.x.data(), m.kTokens, m.kCols);
    map.forward(x, {y.data(), m.kTokens, m.kRows}, saved);
    map.backward(x, {m.grad_y.data(), m.kTokens, m.kRows}, saved,
                 {grad_x.data(), m.kTokens, m.kCols});
    map.step({}, {});
    FittedLinear out = m.linear();
    map.export_to(out);
    const auto& fit = std::get<CodedFit>(out.fit);
    for (size_t t = 0; t < fit.terms.size(); ++t) {
      int64_t changed = 0;
      for (size_t c = 0; c < fit.terms[t].codes.size(); ++c)
        changed += fit.terms[t].codes[c] != m.fit.terms[t].codes[c];
      // Entries of small integers have doubles, and a short piece knows only its first columns.
      if (fit.terms[t].coding == Coding::kTable)
        EXPECT(changed <= m.kRows + 2);
      else
        EXPECT_EQ(changed, int64_t{0});
    }
  }
}

/// Trains `fit` to give the outputs of random weights; returns the relative error before and after.
std::pair<double, double> trained(CodedFit fit, std::vector<Table> tables, bool tables_move) {
  ThreadPool pool(2);
  Rng rng(11);
  const Shape shape = fit.shape;
  std::vector<float> w;
  for (int64_t i = 0; i < shape.count(); ++i) w.push_back(rng.normal());
  FittedLinear linear;
  linear.pre_scale = PreScale::kOwn;
  linear.fit = fit;
  TunedTables tuned(std::move(tables));
  CodedMap map(linear, tuned, {0.3f, CodeRounding::kOff, nullptr}, pool);
  const int64_t tokens = shape.cols;
  std::vector<float> inputs(static_cast<size_t>(tokens * shape.cols), 0.0f);
  for (int64_t t = 0; t < tokens; ++t) inputs[static_cast<size_t>(t * shape.cols + t)] = 1.0f;
  const ConstMatrix x(inputs.data(), tokens, shape.cols);
  std::vector<float> saved(static_cast<size_t>(tokens * map.saved_per_token()));
  std::vector<float> y(static_cast<size_t>(tokens * shape.rows));
  std::vector<float> grad_y(y.size());
  std::vector<float> grad_x(inputs.size());
  double first = 0.0;
  double last = 0.0;
  for (int step = 1; step <= 150; ++step) {
    map.forward(x, {y.data(), tokens, shape.rows}, saved);
    double miss = 0.0;
    double size = 0.0;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < shape.rows; ++i) {
        const auto at = static_cast<size_t>(t * shape.rows + i);
        const float target = w[static_cast<size_t>(i * shape.cols + t)];
        grad_y[at] = y[at] - target;
        miss += double{grad_y[at]} * grad_y[at];
        size += double{target} * target;
      }
    }
    last = miss / size;
    if (step == 1) first = last;
    map.backward(x, {grad_y.data(), tokens, shape.rows}, saved,
                 {grad_x.data(), tokens, shape.cols});
    map.finish_gradients();
    AdamStep adam;
    adam.rate = 0.01f;
    adam.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(0.9, step)));
    adam.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(0.99, step)));
    if (tables_move)
      tuned.step(adam);
    else
      tuned.drop_gradient();
    map.step(adam, adam);
  }
  return {first, last};
}

TEST(codes_and_tables_move_to_where_the_error_is_smaller) {
  Rng rng(5);
  Table table{4, {}};
  for (int64_t i = 0; i < kTableEntries * 4; ++i)
    table.entries.push_back(static_cast<int8_t>(std::lrint(30.0f * rng.normal())));
  CodedFit fit;
  fit.shape = {24, 64};
  fit.terms = {{Coding::kTable, 0, 64, table_gain(table), 0, {}}};
  for (int64_t c = 0; c < 24 * 16; ++c)
    fit.terms[0].codes.push_back(static_cast<uint8_t>(rng.uniform() * 256));
  fit.s_post.assign(24, 1.0f);
  fit.s_pre.assign(64, 1.0f);
  const auto [before, codes_alone] = trained(fit, {table}, false);
  const auto [same, both] = trained(fit, {table}, true);
  EXPECT_EQ(before, same);
  EXPECT(codes_alone < 0.4 * before);
  EXPECT(both < codes_alone);
}

}  // namespace
}  // namespace subbit
