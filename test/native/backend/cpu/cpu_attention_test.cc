// attention on the CPU against a slow double reference: grouped heads, odd widths, both cache
// types; and the promise that neither chunks nor threads change a bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/cpu_backend.h"
#include "tensors.h"

namespace subbit {
namespace {

using test::OwnedTensor;

/// A cache of our own, filled with a pattern that attention must not read.
struct Cache {
  std::vector<uint32_t> keys;
  std::vector<uint32_t> values;
  KvLayer layer;

  Cache(const AttentionShape& shape, KvType type, int64_t capacity)
      : keys(static_cast<size_t>(shape.kv_heads * capacity * words_of(shape, type)), 0xFFFFFFFFu),
        values(keys),
        layer{type, keys.data(), values.data(), capacity} {}

  static int64_t words_of(const AttentionShape& shape, KvType type) {
    return std::max(shape.head_dim, kv_row_bytes(type, shape.head_dim) / 4);
  }
  float element(const std::vector<uint32_t>& side, int64_t index) const {
    if (layer.type == KvType::kF32) return std::bit_cast<float>(side[static_cast<size_t>(index)]);
    return to_float(reinterpret_cast<const Half*>(side.data())[index]);
  }
};

struct Inputs {
  OwnedTensor q, k, v;
  Inputs(const AttentionShape& shape, int64_t tokens)
      : q(tokens, shape.heads * shape.head_dim, 1),
        k(tokens, shape.kv_heads * shape.head_dim, 2),
        v(tokens, shape.kv_heads * shape.head_dim, 4) {
    q.fill(11, 1.5f);
    k.fill(12, 1.5f);
    v.fill(13);
  }
};

/// What the cache makes of a value.
double cached(float value, KvType type) {
  return type == KvType::kF32 ? value : to_float(to_half(value));
}

/// Checks row t of `out`, whose softmax covers all of inputs' rows 0..t.
void check_row(const AttentionShape& shape, const Inputs& in, KvType type, int64_t t,
               const OwnedTensor& out) {
  const int64_t d = shape.head_dim;
  for (int64_t head = 0; head < shape.heads; ++head) {
    const int64_t kv_head = head / (shape.heads / shape.kv_heads);
    std::vector<double> powers;
    double largest = -1e300, widest = 0;
    for (int64_t p = 0; p <= t; ++p) {
      double score = 0, magnitude = 0;
      for (int64_t i = 0; i < d; ++i) {
        const double product = in.q.at(t, head * d + i) * cached(in.k.at(p, kv_head * d + i), type);
        score += product;
        magnitude += std::fabs(product);
      }
      powers.push_back(score / std::sqrt(static_cast<double>(d)));
      largest = std::max(largest, powers.back());
      widest = std::max(widest, magnitude / std::sqrt(static_cast<double>(d)));
    }
    double sum = 0;
    for (double& power : powers) sum += power = std::exp(power - largest);
    for (int64_t i = 0; i < d; ++i) {
      double expected = 0, magnitude = 0;
      for (int64_t p = 0; p <= t; ++p) {
        const double term =
            powers[static_cast<size_t>(p)] / sum * cached(in.v.at(p, kv_head * d + i), type);
        expected += term;
        magnitude += std::fabs(term);
      }
      // Scores: d / 32 + 7 roundings in the dot, 4 more for root, scale and maximum, each relative
      // to at most `widest`; an error of s in two scores moves their ratio by 2 s. Then exp (2
      // ulp), the sums over t + 1 positions above and below the line, and the last products.
      const double score_error = (static_cast<double>(d) / 32 + 11) * widest;
      const double roundings = 2 * score_error + 2 * static_cast<double>(t + 1) + 12;
      EXPECT_NEAR(out.at(t, head * d + i), expected, roundings * 0x1p-24 * magnitude + 1e-30);
    }
  }
}

const std::vector<AttentionShape> kShapes{{1, 1, 8}, {2, 2, 48}, {4, 2, 6},   {6, 1, 2},
                                          {4, 4, 1}, {2, 1, 64}, {3, 1, 100}, {1, 1, 128}};

TEST(attention_is_causal_softmax_over_grouped_heads) {
  for (const AttentionShape& shape : kShapes) {
    for (const KvType type : {KvType::kF32, KvType::kF16}) {
      for (const int64_t tokens : {1, 2, 5, 33, 65, 130}) {
        ThreadPool pool(2);
        const auto backend = make_cpu_backend(pool);
        const Inputs in(shape, tokens);
        Cache cache(shape, type, tokens + 3);
        OwnedTensor out(tokens, shape.heads * shape.head_dim);
        backend->attention(shape, in.q.tensor, in.k.tensor, in.v.tensor, cache.layer, 0,
                           out.tensor);
        backend->finish();
        for (int64_t t = 0; t < tokens; ++t) check_row(shape, in, type, t, out);
        EXPECT(out.slack_untouched());
      }
    }
  }
}

TEST(attention_lays_the_cache_out_by_head_then_position) {
  const AttentionShape shape{4, 2, 6};
  for (const KvType type : {KvType::kF32, KvType::kF16}) {
    ThreadPool pool(1);
    const Inputs in(shape, 3);
    Cache cache(shape, type, 7);
    OwnedTensor out(3, 24);
    make_cpu_backend(pool)->attention(shape, in.q.tensor, in.k.tensor, in.v.tensor, cache.layer, 0,
                                      out.tensor);
    for (int64_t head = 0; head < 2; ++head) {
      for (int64_t p = 0; p < 7; ++p) {
        for (int64_t i = 0; i < 6; ++i) {
          const int64_t at = (head * 7 + p) * 6 + i;
          if (p >= 3) {
            EXPECT(std::isnan(cache.element(cache.keys, at)));
            EXPECT(std::isnan(cache.element(cache.values, at)));
            continue;
          }
          EXPECT_EQ(cache.element(cache.keys, at), cached(in.k.at(p, head * 6 + i), type));
          EXPECT_EQ(cache.element(cache.values, at), cached(in.v.at(p, head * 6 + i), type));
        }
      }
    }
  }
}

/// The values an int8 cache stands for, [tokens, kv_heads * head_dim].
void unpack(const std::vector<uint32_t>& side, const AttentionShape& shape, int64_t capacity,
            OwnedTensor& out) {
  const auto* bytes = reinterpret_cast<const std::byte*>(side.data());
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t t = 0; t < out.tensor.rows; ++t) {
      const std::byte* row =
          bytes + (head * capacity + t) * kv_row_bytes(KvType::kI8, shape.head_dim);
      for (int64_t i = 0; i < shape.head_dim; ++i) {
        const auto code = static_cast<int8_t>(row[i]);
        out.at(t, head * shape.head_dim + i) = code * code_scale(row, shape.head_dim);
      }
    }
  }
}

TEST(an_int8_cache_holds_each_row_to_half_a_step_and_attends_to_what_it_holds) {
  for (const AttentionShape& shape : kShapes) {
    const int64_t tokens = 130, capacity = 133;  // more than two blocks
    ThreadPool pool(2);
    const auto backend = make_cpu_backend(pool);
    const Inputs in(shape, tokens);
    Cache cache(shape, KvType::kI8, capacity);
    OwnedTensor out(tokens, shape.heads * shape.head_dim);
    backend->attention(shape, in.q.tensor, in.k.tensor, in.v.tensor, cache.layer, 0, out.tensor);
    Inputs held(shape, tokens);
    unpack(cache.keys, shape, capacity, held.k);
    unpack(cache.values, shape, capacity, held.v);
    for (const auto& [given, kept] : {std::pair{&in.k, &held.k}, std::pair{&in.v, &held.v}}) {
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t first = 0; first < given->tensor.cols; first += shape.head_dim) {
          float largest = 0;
          for (int64_t i = first; i < first + shape.head_dim; ++i)
            largest = std::max(largest, std::fabs(given->at(t, i)));
          for (int64_t i = first; i < first + shape.head_dim; ++i)
            EXPECT_NEAR(kept->at(t, i), given->at(t, i), largest / 127 * 0.50001);
        }
      }
    }
    // Scale times code is one rounding, in both the scores and the sum: far below check_row's own.
    for (int64_t t = 0; t < tokens; ++t) check_row(shape, held, KvType::kF32, t, out);
    EXPECT(out.slack_untouched());
  }
}

TEST(an_int8_cache_keeps_zeros_and_passes_nan_on) {
  float row[5] = {0, 0, 0, 0, 0};
  std::byte bytes[12];
  store_codes(row, bytes);
  EXPECT_EQ(code_scale(bytes, 5), 0.0f);
  row[1] = 0x1p-101f;  // too small to divide by
  store_codes(row, bytes);
  EXPECT_EQ(code_scale(bytes, 5), 0.0f);
  row[3] = -4.0f;
  store_codes(row, bytes);
  EXPECT_EQ(int(static_cast<int8_t>(bytes[3])), -127);
  EXPECT_EQ(code_scale(bytes, 5), 4.0f / 127.0f);
  row[1] = std::numeric_limits<float>::quiet_NaN();
  store_codes(row, bytes);
  EXPECT(std::isnan(code_scale(bytes, 5)));
}

TEST(attention_does_not_depend_on_how_a_prompt_is_cut_or_on_threads) {
  for (const AttentionShape& shape : {AttentionShape{4, 2, 6}, AttentionShape{6, 6, 48}}) {
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
      const int64_t tokens = 141;
      const Inputs in(shape, tokens);
      ThreadPool one(1);
      Cache whole_cache(shape, type, 150);
      OwnedTensor whole(tokens, shape.heads * shape.head_dim);
      make_cpu_backend(one)->attention(shape, in.q.tensor, in.k.tensor, in.v.tensor,
                                       whole_cache.layer, 0, whole.tensor);
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{0, 1, 2, 3, 141}, {0, 64, 65, 141}, {0, 16, 61, 130, 141}}) {
        ThreadPool three(3);
        const auto backend = make_cpu_backend(three);
        Cache cache(shape, type, 150);
        OwnedTensor out(tokens, shape.heads * shape.head_dim);
        for (size_t i = 0; i + 1 < cuts.size(); ++i) {
          const int64_t first = cuts[i], count = cuts[i + 1] - cuts[i];
          backend->attention(shape, in.q.rows(first, count), in.k.rows(first, count),
                             in.v.rows(first, count), cache.layer, first, out.rows(first, count));
        }
        EXPECT(test::same_bits(out.values, whole.values));
        EXPECT(cache.keys == whole_cache.keys && cache.values == whole_cache.values);
      }
    }
  }
}

TEST(attention_may_write_over_its_query) {
  const AttentionShape shape{4, 2, 6};
  const Inputs in(shape, 20);
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool);
  Cache cache(shape, KvType::kF16, 20);
  OwnedTensor out(in.q);
  backend->attention(shape, in.q.tensor, in.k.tensor, in.v.tensor, cache.layer, 0, out.tensor);
  OwnedTensor query(in.q);
  backend->attention(shape, query.tensor, in.k.tensor, in.v.tensor, cache.layer, 0, query.tensor);
  EXPECT(test::same_bits(query.values, out.values));
}

TEST(attention_survives_scores_far_apart_and_passes_nan_on) {
  const AttentionShape shape{1, 1, 4};
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  OwnedTensor q(2, 4), k(2, 4), v(2, 4), out(2, 4);
  for (int64_t i = 0; i < 4; ++i) {
    q.at(0, i) = q.at(1, i) = 1000.0f;
    k.at(0, i) = -50.0f, k.at(1, i) = 50.0f;
    v.at(0, i) = 1.0f, v.at(1, i) = 2.0f;
  }
  Cache cache(shape, KvType::kF32, 2);
  backend->attention(shape, q.tensor, k.tensor, v.tensor, cache.layer, 0, out.tensor);
  EXPECT_EQ(out.at(0, 0), 1.0f);
  EXPECT_EQ(out.at(1, 0), 2.0f);
  q.at(1, 2) = std::numeric_limits<float>::quiet_NaN();
  backend->attention(shape, q.tensor, k.tensor, v.tensor, cache.layer, 0, out.tensor);
  EXPECT_EQ(out.at(0, 0), 1.0f);
  EXPECT(std::isnan(out.at(1, 0)));
}

/// Rows of a cache as `type` holds them, and nothing behind them that may be read.
std::vector<std::byte> stored_rows(std::span<const float> values, KvType type, int64_t width) {
  const int64_t rows = std::ssize(values) / width;
  const int64_t row_bytes = kv_row_bytes(type, width);
  std::vector<std::byte> bytes(static_cast<size_t>(rows * row_bytes));
  for (int64_t p = 0; p < rows; ++p) {
    const auto row = values.subspan(static_cast<size_t>(p * width), static_cast<size_t>(width));
    std::byte* to = bytes.data() + p * row_bytes;
    if (type == KvType::kF32) std::memcpy(to, row.data(), row.size_bytes());
    if (type == KvType::kF16) narrow_portable(row, reinterpret_cast<Half*>(to));
    if (type == KvType::kI8) store_codes(row, to);
  }
  return bytes;
}

TEST(attention_kernels_all_have_the_same_bits) {
  const auto kernels = attention_kernels();
  const AttentionKernels& reference = kernels.back();
  for (const int64_t width : {1, 3, 4, 6, 7, 8, 15, 16, 17, 31, 48, 64, 100, 128, 136, 200}) {
    for (const int64_t positions : {1, 2, 3, 4, 15, 16, 17, 37}) {
      for (const int64_t queries : {1, 2, 3, 4, 5, 8}) {
        Rng rng(14);
        const auto floats = [&](int64_t count) {
          std::vector<float> values(static_cast<size_t>(count));
          for (float& value : values) value = rng.normal();
          return values;
        };
        const int64_t q_stride = width + 3, p_stride = positions + 2;  // none the other's
        const auto values = floats(width * positions), q = floats(queries * q_stride);
        const auto weights = floats(queries * p_stride), sums = floats(queries * q_stride);
        for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
          const std::vector<std::byte> rows = stored_rows(values, type, width);
          const KvRows stored{type, rows.data(), positions, width};
          const auto scored = [&](const AttentionKernels& kernel) {
            auto scores = weights;  // what lies between the rows must stay
            kernel.scores({stored, queries, q.data(), q_stride, scores.data(), p_stride});
            return scores;
          };
          const auto summed = [&](const AttentionKernels& kernel) {
            auto out = sums;
            kernel.weighted_sum({stored, queries, weights.data(), p_stride, out.data(), q_stride});
            return out;
          };
          for (const AttentionKernels& kernel : kernels) {
            EXPECT(test::same_bits(scored(kernel), scored(reference)));
            EXPECT(test::same_bits(summed(kernel), summed(reference)));
          }
        }
      }
    }
  }
}

TEST(attention_kernels_narrow_as_halves_do) {
  std::vector<float> values(37);
  Rng rng(15);
  for (float& value : values) value = rng.normal();
  values[3] = 1e30f, values[5] = 1e-9f, values[36] = std::numeric_limits<float>::quiet_NaN();
  for (const AttentionKernels& kernel : attention_kernels()) {
    std::vector<Half> halves(values.size());
    kernel.narrow(values, halves.data());
    for (size_t i = 0; i + 1 < values.size(); ++i)
      EXPECT_EQ(halves[i].bits, to_half(values[i]).bits);
    EXPECT(std::isnan(to_float(halves.back())));
  }
}

TEST(attention_refuses_to_write_past_its_cache) {
  const AttentionShape shape{2, 1, 4};
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  const Inputs in(shape, 3);
  Cache cache(shape, KvType::kF16, 5);
  OwnedTensor out(3, 8);
  EXPECT_ERROR(
      ErrorCode::kInternal, "capacity",
      backend->attention(shape, in.q.tensor, in.k.tensor, in.v.tensor, cache.layer, 3, out.tensor));
  EXPECT_ERROR(ErrorCode::kInternal, "kv_heads",
               backend->attention({3, 2, 4}, in.q.tensor, in.k.tensor, in.v.tensor, cache.layer, 0,
                                  out.tensor));
}

}  // namespace
}  // namespace subbit
