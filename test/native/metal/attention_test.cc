// metal/attention.metal against a slow double reference: grouped heads, odd widths, both cache
// types, one pass and split; what it writes as floats and as codes.
#include "metal/attention.h"

#include <bit>
#include <cmath>

#include "backend/cpu/attention_kernels.h"
#include "base/half.h"
#include "metal/prompt_attention.h"
#include "support/metal_kernels.h"
#include "support/test.h"

namespace subbit::test {
namespace {

struct Attention {
  uint32_t heads, kv_heads, head_dim, first_position, tokens, splits;
  KvType type;
};

struct Cache {
  std::vector<float> keys;  // as stored
  std::vector<float> values;
  ExactBuffer<std::byte> key_bytes;
  ExactBuffer<std::byte> value_bytes;
};

/// Bytes of one position as the cache stores it, and what attention then reads.
std::vector<float> store_row(KvType type, std::span<const float> values, std::byte* row) {
  std::vector<float> read(values.begin(), values.end());
  if (type == KvType::kF32) std::memcpy(row, values.data(), values.size_bytes());
  if (type == KvType::kF16) {
    for (size_t d = 0; d < read.size(); ++d) {
      const Half half = to_half(values[d]);
      std::memcpy(row + 2 * d, &half, 2);
      read[d] = to_float(half);
    }
  }
  if (type == KvType::kI8) {
    store_codes(values, row);
    const float scale = code_scale(row, static_cast<int64_t>(values.size()));
    for (size_t d = 0; d < read.size(); ++d) {
      read[d] = static_cast<float>(reinterpret_cast<const int8_t*>(row)[d]) * scale;
    }
  }
  return read;
}

/// A cache whose positions past the last are NaN.
Cache make_cache(const Attention& c, uint32_t capacity) {
  const size_t rows = size_t{c.kv_heads} * capacity;
  const auto bytes = static_cast<size_t>(kv_row_bytes(c.type, c.head_dim));
  Cache cache{random_floats(rows * c.head_dim, 2), random_floats(rows * c.head_dim, 3),
              ExactBuffer<std::byte>(rows * bytes), ExactBuffer<std::byte>(rows * bytes)};
  const uint32_t used = c.first_position + c.tokens;
  for (size_t row = 0; row < rows; ++row) {
    if (row % capacity >= used) continue;
    for (auto [floats, stored] :
         {std::pair(&cache.keys, &cache.key_bytes), std::pair(&cache.values, &cache.value_bytes)}) {
      const std::span<float> own(floats->data() + row * c.head_dim, c.head_dim);
      const auto read = store_row(c.type, own, stored->data() + row * bytes);
      std::copy(read.begin(), read.end(), own.begin());
    }
  }
  return cache;
}

/// "f16" of "attention_decode_f16".
std::string suffix_of(KvType type) {
  return type == KvType::kF32 ? "f32" : type == KvType::kF16 ? "f16" : "i8";
}

struct Wanted {
  double value;
  double tolerance;
};

/// Roundings that one multiply-add after another leaves in a score, and the steps of a cache.
enum class Order { kLanes, kChain };

/// One output element.
Wanted reference(const Attention& c, uint32_t capacity, const Cache& cache,
                 const std::vector<float>& q, uint32_t t, uint32_t head, uint32_t d,
                 Order order = Order::kLanes) {
  const size_t kv_row = size_t{head / (c.heads / c.kv_heads)} * capacity * c.head_dim;
  const float* query = q.data() + (size_t{t} * c.heads + head) * c.head_dim;
  const double root = std::sqrt(static_cast<double>(c.head_dim));
  std::vector<double> scores;
  double widest = 0;
  double largest = -1e300;
  for (uint32_t p = 0; p <= c.first_position + t; ++p) {
    double score = 0;
    double magnitude = 0;
    for (uint32_t i = 0; i < c.head_dim; ++i) {
      const double product =
          double{query[i]} * cache.keys[kv_row + size_t{p} * c.head_dim + i] / root;
      score += product;
      magnitude += std::fabs(product);
    }
    scores.push_back(score);
    widest = std::max(widest, magnitude);
    largest = std::max(largest, score);
  }
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  Wanted wanted{0, 0};
  for (size_t p = 0; p < scores.size(); ++p) {
    const double term = scores[p] / sum * cache.values[kv_row + p * c.head_dim + d];
    wanted.value += term;
    wanted.tolerance += std::fabs(term);
  }
  // A score: 3 roundings for the scaled query, one for the row's scale here and one in the twin,
  // head_dim / 32 products and 5 sums, one difference; its power as much relatively, and 2 ulp of
  // exp. Sum and values: a product and a sum for each position, fading twice at most a step, a
  // quotient.
  // kChain: head_dim products in a row instead, and a product with the fading diagonal a step.
  const double products = order == Order::kLanes ? c.head_dim / 32.0 : c.head_dim;
  const double relative = widest * (products + 12) + 8.0 * scores.size() + 24;
  wanted.tolerance *= 2 * relative * 0x1p-24;
  return wanted;
}

std::vector<float> run_floats(const Attention& c, uint32_t capacity, const Cache& cache,
                              const std::vector<float>& q) {
  const uint32_t columns = c.heads * c.head_dim;
  shader::AttentionArgs args{c.heads,  c.kv_heads, c.head_dim, capacity, c.first_position,
                             c.splits, columns,    columns,    0};
  const ExactBuffer<float> query(q);
  const ExactBuffer<float> out(size_t{c.tokens} * columns);
  const ExactBuffer<uint32_t> status(1, 0u);
  const std::string suffix = suffix_of(c.type);
  const size_t memory = shader::attention_threadgroup_bytes(c.head_dim);
  if (c.splits == 1) {
    run_in_every_order({"attention_decode_" + suffix,
                        {c.heads, c.tokens},
                        {shader::kAttentionThreads},
                        {bytes_of(args), query.binding(), cache.key_bytes.binding(),
                         cache.value_bytes.binding(), out.binding(), status.binding()},
                        {memory}},
                       {4, 5});
    return out.values();
  }
  const ExactBuffer<float> partials(size_t{c.tokens} * c.heads * c.splits *
                                    shader::partial_floats(c.head_dim));
  run_in_every_order({"attention_split_" + suffix,
                      {c.heads, c.tokens, c.splits},
                      {shader::kAttentionThreads},
                      {bytes_of(args), query.binding(), cache.key_bytes.binding(),
                       cache.value_bytes.binding(), partials.binding()},
                      {memory}},
                     {4});
  run_in_every_order({"attention_combine",
                      {c.heads, c.tokens},
                      {shader::kCombineThreads},
                      {bytes_of(args), partials.binding(), out.binding(), status.binding()},
                      {}},
                     {2, 3});
  return out.values();
}

std::vector<float> run_prompt(const Attention& c, uint32_t capacity, const Cache& cache,
                              const std::vector<float>& q) {
  const uint32_t columns = c.heads * c.head_dim;
  shader::PromptAttentionArgs args{
      {c.heads, c.kv_heads, c.head_dim, capacity, c.first_position, 1, columns, columns, 0},
      c.tokens};
  const ExactBuffer<float> query(q);
  const ExactBuffer<float> out(size_t{c.tokens} * columns);
  run_in_every_order({"prompt_attention_" + suffix_of(c.type),
                      {c.heads, shader::prompt_groups(c.tokens)},
                      {shader::kPromptThreads},
                      {bytes_of(args), query.binding(), cache.key_bytes.binding(),
                       cache.value_bytes.binding(), out.binding()},
                      {shader::prompt_threadgroup_bytes(c.head_dim)}},
                     {4});
  return out.values();
}

void expect_attention(const Attention& c, Order order = Order::kLanes) {
  const uint32_t capacity = c.first_position + c.tokens + 1;
  const Cache cache = make_cache(c, capacity);
  const auto q = random_floats(size_t{c.tokens} * c.heads * c.head_dim, 1);
  const auto out = order == Order::kLanes ? run_floats(c, capacity, cache, q)
                                          : run_prompt(c, capacity, cache, q);
  for (uint32_t t = 0; t < c.tokens; ++t) {
    for (uint32_t head = 0; head < c.heads; ++head) {
      for (uint32_t d = 0; d < c.head_dim; d += 1 + c.head_dim / 17) {
        const Wanted wanted = reference(c, capacity, cache, q, t, head, d, order);
        EXPECT_NEAR(out[(size_t{t} * c.heads + head) * c.head_dim + d], wanted.value,
                    wanted.tolerance);
      }
    }
  }
}

}  // namespace

TEST(metal_attention_agrees_with_double_arithmetic) {
  expect_attention({1, 1, 1, 0, 1, 1, KvType::kF32});
  expect_attention({4, 2, 8, 0, 3, 1, KvType::kF16});
  expect_attention({2, 1, 48, 36, 1, 1, KvType::kF32});
  expect_attention({2, 2, 64, 31, 2, 1, KvType::kF16});
  expect_attention({1, 1, 128, 99, 1, 1, KvType::kF16});
  expect_attention({1, 1, 256, 5, 1, 1, KvType::kF32});
  expect_attention({4, 2, 6, 9, 2, 1, KvType::kI8});
  expect_attention({2, 1, 128, 70, 1, 1, KvType::kI8});
}

TEST(metal_split_attention_agrees_with_double_arithmetic) {
  expect_attention({2, 1, 48, 66, 1, 3, KvType::kF16});
  expect_attention({1, 1, 128, 0, 2, 4, KvType::kF32});  // more splits than positions
  expect_attention({2, 2, 32, 127, 1, 8, KvType::kF16});
  expect_attention({2, 1, 48, 66, 1, 3, KvType::kI8});
}

// Eight tokens are one simdgroup's; the last ones of a prompt share tokens with others.
TEST(metal_prompt_attention_agrees_with_double_arithmetic) {
  expect_attention({1, 1, 8, 0, 8, 1, KvType::kF32}, Order::kChain);
  expect_attention({2, 1, 16, 3, 9, 1, KvType::kF16}, Order::kChain);
  expect_attention({4, 2, 24, 0, 33, 1, KvType::kF32}, Order::kChain);
  expect_attention({2, 2, 64, 31, 17, 1, KvType::kI8}, Order::kChain);
  expect_attention({1, 1, 256, 14, 10, 1, KvType::kF16}, Order::kChain);
}

TEST(metal_attention_writes_the_codes_of_what_it_computes) {
  for (const uint32_t splits : {1u, 3u}) {
    const Attention c{3, 1, 64, 20, 2, splits, KvType::kF16};
    const uint32_t capacity = 22;
    const Cache cache = make_cache(c, capacity);
    const auto q = random_floats(size_t{c.tokens} * c.heads * c.head_dim, 1);
    const auto floats = run_floats(c, capacity, cache, q);
    shader::AttentionArgs args{c.heads,
                               c.kv_heads,
                               c.head_dim,
                               capacity,
                               c.first_position,
                               splits,
                               c.heads * c.head_dim,
                               0,
                               shader::kAttentionQvec};
    const uint32_t chunks = c.heads * c.head_dim / 32;
    const ExactBuffer<float> query(q);
    const ExactBuffer<uint32_t> out(c.tokens * shader::qvec_words(chunks));
    const ExactBuffer<uint32_t> status(1, 0u);
    const ExactBuffer<float> partials(c.tokens * c.heads * splits * (c.head_dim + 2));
    const size_t memory = shader::attention_threadgroup_bytes(c.head_dim);
    Dispatch attend{
        splits == 1 ? "attention_decode_f16" : "attention_split_f16",
        {c.heads, c.tokens, splits},
        {shader::kAttentionThreads},
        {bytes_of(args), query.binding(), cache.key_bytes.binding(), cache.value_bytes.binding(),
         splits == 1 ? out.binding() : partials.binding(), status.binding()},
        {memory}};
    run_in_every_order(attend, {4});
    if (splits > 1) {
      run_in_every_order({"attention_combine",
                          {c.heads, c.tokens},
                          {shader::kCombineThreads},
                          {bytes_of(args), partials.binding(), out.binding(), status.binding()},
                          {}},
                         {2, 3});
    }
    expect_same_words(out.values(), make_qvecs(cpu_quantize(floats, c.tokens), {}), "codes");
  }
}

}  // namespace subbit::test
