// Every backward pass against central differences of the operation written out in double.
#include "backend/tape/tape_operations.h"

#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "base/rng.h"
#include "support/test.h"

namespace subbit {
namespace {

using Values = std::vector<float>;

Values random_values(int64_t count, uint64_t seed) {
  Rng rng(seed);
  Values values;
  for (int64_t i = 0; i < count; ++i) values.push_back(rng.normal());
  return values;
}

Matrix view(Values& values, int64_t cols) {
  return {values.data(), std::ssize(values) / cols, cols};
}

/// The loss in double moves by gradient * 2 step when one input does; its third derivative, times
/// step^2 / 6, and float's rounding of the gradient under test stay below 1e-3 of values about one.
void expect_gradient(Values& inputs, const Values& gradient, const std::function<double()>& loss) {
  constexpr double kStep = 1.0 / 256;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const float value = inputs[i];
    inputs[i] = static_cast<float>(value + kStep);
    const double above = loss();
    const double high = inputs[i];
    inputs[i] = static_cast<float>(value - kStep);
    const double slope = (above - loss()) / (high - inputs[i]);
    inputs[i] = value;
    EXPECT_NEAR(gradient[i], slope, 1e-3 * (1.0 + std::fabs(slope)));
  }
}

void check_rms_norm(int64_t rows, int64_t cols) {
  constexpr float kEps = 1e-2f;
  Values x = random_values(rows * cols, 1);
  Values weight = random_values(cols, 2);
  Values grad_out = random_values(rows * cols, 3);
  Values grad_scales = random_values(rows, 4);
  const auto scale_of = [&](int64_t t) {
    double squares = 0;
    for (int64_t j = 0; j < cols; ++j) squares += double{x[t * cols + j]} * x[t * cols + j];
    return 1.0 / std::sqrt(squares / static_cast<double>(cols) + kEps);
  };
  const auto loss = [&] {
    double sum = 0;
    for (int64_t t = 0; t < rows; ++t) {
      sum += grad_scales[t] * scale_of(t);
      for (int64_t j = 0; j < cols; ++j)
        sum += double{grad_out[t * cols + j]} * x[t * cols + j] * weight[j];
    }
    return sum;
  };
  Values scales;
  for (int64_t t = 0; t < rows; ++t) scales.push_back(static_cast<float>(scale_of(t)));
  Values grad_x(x.size(), 0.0f);
  Values grad_weight(weight.size(), 0.0f);
  ThreadPool pool(2);
  rms_norm_backward({view(x, cols), scales, weight, view(grad_out, cols), grad_scales},
                    view(grad_x, cols), grad_weight, pool);
  expect_gradient(x, grad_x, loss);
  expect_gradient(weight, grad_weight, loss);
}

TEST(the_gradient_of_rms_norm_is_that_of_its_values_and_of_its_scale) {
  check_rms_norm(1, 1);
  check_rms_norm(3, 7);
  check_rms_norm(17, 4);
}

TEST(the_gradient_of_rope_turns_back_what_rope_turned) {
  for (const int64_t half : {1, 3, 4}) {
    constexpr int64_t kHeads = 2;
    constexpr int64_t kTokens = 5;
    const std::vector<int64_t> lengths = {3, 2};
    const int64_t cols = kHeads * 2 * half;
    RopeTable table{{}, {}, half, kTokens};
    for (int64_t i = 0; i < kTokens * half; ++i) {
      table.cosine.push_back(static_cast<float>(std::cos(0.7 * static_cast<double>(i))));
      table.sine.push_back(static_cast<float>(std::sin(0.7 * static_cast<double>(i))));
    }
    Values x = random_values(kTokens * cols, 5);
    Values grad_out = random_values(kTokens * cols, 6);
    const auto loss = [&] {
      double sum = 0;
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t c = 0; c < cols; ++c) {
          const int64_t in_head = c % (2 * half);
          const bool low = in_head < half;
          const int64_t i = low ? in_head : in_head - half;
          const double other = x[t * cols + (low ? c + half : c - half)];
          const int64_t position = t < 3 ? t : t - 3;
          const double cosine = table.cosine[position * half + i];
          const double sine = table.sine[position * half + i];
          sum += grad_out[t * cols + c] * (x[t * cols + c] * cosine + (low ? -sine : sine) * other);
        }
      }
      return sum;
    };
    Values grad = grad_out;
    ThreadPool pool(1);
    rope_backward(table, kHeads, lengths, view(grad, cols), pool);
    expect_gradient(x, grad, loss);
  }
}

TEST(the_gradient_of_swiglu_reaches_gate_and_up) {
  for (const int64_t cols : {1, 3, 4, 9}) {
    Values gate = random_values(3 * cols, 7);
    Values up = random_values(3 * cols, 8);
    Values grad_out = random_values(3 * cols, 9);
    const auto loss = [&] {
      double sum = 0;
      for (size_t i = 0; i < gate.size(); ++i)
        sum += double{grad_out[i]} * gate[i] / (1.0 + std::exp(-double{gate[i]})) * up[i];
      return sum;
    };
    Values grad_gate(gate.size(), 0.0f);
    Values grad_up(up.size(), 0.0f);
    ThreadPool pool(2);
    swiglu_backward({view(gate, cols), view(up, cols), view(grad_out, cols)}, view(grad_gate, cols),
                    view(grad_up, cols), pool);
    expect_gradient(gate, grad_gate, loss);
    expect_gradient(up, grad_up, loss);
  }
}

struct AttentionCase {
  AttentionShape shape;
  std::vector<int64_t> lengths;
};

/// Causal attention written out, sequence after sequence: out[t][head][d] to `visit`.
template <typename Visit>
void attend(const AttentionCase& c, const Values& q, const Values& k, const Values& v,
            Visit&& visit) {
  const auto [heads, kv_heads, width] = c.shape;
  int64_t first = 0;
  for (const int64_t tokens : c.lengths) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t shared = head / (heads / kv_heads);
      for (int64_t t = first; t < first + tokens; ++t) {
        std::vector<double> powers;
        double sum = 0;
        for (int64_t p = first; p <= t; ++p) {
          double score = 0;
          for (int64_t d = 0; d < width; ++d) {
            score +=
                double{q[(t * heads + head) * width + d]} * k[(p * kv_heads + shared) * width + d];
          }
          powers.push_back(std::exp(score / std::sqrt(static_cast<double>(width))));
          sum += powers.back();
        }
        for (int64_t d = 0; d < width; ++d) {
          double out = 0;
          for (int64_t p = first; p <= t; ++p)
            out += powers[p - first] / sum * v[(p * kv_heads + shared) * width + d];
          visit((t * heads + head) * width + d, out);
        }
      }
    }
    first += tokens;
  }
}

/// Blocks of queries are 64 long.
const std::vector<AttentionCase> kAttentionCases = {
    {{1, 1, 1}, {1}},  {{2, 2, 3}, {5}},       {{4, 2, 5}, {6}},
    {{3, 1, 4}, {17}}, {{2, 1, 3}, {4, 1, 3}}, {{1, 1, 2}, {66, 2}},
};

TEST(attention_of_whole_sequences_is_what_it_is_token_by_token) {
  for (const AttentionCase& c : kAttentionCases) {
    const int64_t tokens = std::reduce(c.lengths.begin(), c.lengths.end());
    const int64_t q_cols = c.shape.heads * c.shape.head_dim;
    const int64_t kv_cols = c.shape.kv_heads * c.shape.head_dim;
    Values q = random_values(tokens * q_cols, 10);
    Values k = random_values(tokens * kv_cols, 11);
    Values v = random_values(tokens * kv_cols, 12);
    Values out(q.size());
    Buffer<float> scratch;
    ThreadPool pool(2);
    attention_forward({c.shape, c.lengths, view(q, q_cols), view(k, kv_cols), view(v, kv_cols)},
                      view(out, q_cols), scratch, pool);
    // Values below 5, weights that add up to one, each off by the rounding of a score below 30.
    attend(c, q, k, v, [&](int64_t at, double expected) {
      EXPECT_NEAR(out[static_cast<size_t>(at)], expected, 5 * 30 * 0x1p-22);
    });
  }
}

TEST(the_gradient_of_attention_is_summed_over_the_query_heads_of_a_kv_head) {
  for (const AttentionCase& c : kAttentionCases) {
    const int64_t tokens = std::reduce(c.lengths.begin(), c.lengths.end());
    const int64_t q_cols = c.shape.heads * c.shape.head_dim;
    const int64_t kv_cols = c.shape.kv_heads * c.shape.head_dim;
    Values q = random_values(tokens * q_cols, 10);
    Values k = random_values(tokens * kv_cols, 11);
    Values v = random_values(tokens * kv_cols, 12);
    Values grad_out = random_values(tokens * q_cols, 13);
    Values grad_q(q.size(), 0.0f);
    Values grad_k(k.size(), 0.0f);
    Values grad_v(v.size(), 0.0f);
    Buffer<float> scratch;
    ThreadPool pool(2);
    attention_backward({c.shape, c.lengths, view(q, q_cols), view(k, kv_cols), view(v, kv_cols)},
                       view(grad_out, q_cols),
                       {view(grad_q, q_cols), view(grad_k, kv_cols), view(grad_v, kv_cols)},
                       scratch, pool);
    const auto loss = [&] {
      double sum = 0;
      attend(c, q, k, v, [&](int64_t at, double out) { sum += grad_out[at] * out; });
      return sum;
    };
    expect_gradient(q, grad_q, loss);
    expect_gradient(k, grad_k, loss);
    expect_gradient(v, grad_v, loss);
  }
}

}  // namespace
}  // namespace subbit
