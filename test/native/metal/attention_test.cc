// metal/attention.metal against a slow double reference: grouped heads, odd widths, both cache
// types, one pass and split; what it writes as floats and as codes.
#include "metal/attention.h"

#include <bit>
#include <cmath>

#include "base/half.h"
#include "support/metal_kernels.h"
#include "support/test.h"

namespace subbit::test {
namespace {

struct Attention {
  uint32_t heads, kv_heads, head_dim, first_position, tokens, splits;
  bool halves;
};

struct Cache {
  std::vector<float> keys;  // as stored
  std::vector<float> values;
  ExactBuffer<std::byte> key_bytes;
  ExactBuffer<std::byte> value_bytes;
};

/// A cache whose positions past the last are NaN.
Cache make_cache(const Attention& c, uint32_t capacity) {
  const size_t count = size_t{c.kv_heads} * capacity * c.head_dim;
  const size_t element = c.halves ? 2 : 4;
  Cache cache{random_floats(count, 2), random_floats(count, 3),
              ExactBuffer<std::byte>(count * element), ExactBuffer<std::byte>(count * element)};
  const uint32_t used = c.first_position + c.tokens;
  for (size_t i = 0; i < count; ++i) {
    if (i / c.head_dim % capacity >= used) continue;
    for (auto [floats, bytes] :
         {std::pair(&cache.keys, &cache.key_bytes), std::pair(&cache.values, &cache.value_bytes)}) {
      const Half half = to_half((*floats)[i]);
      if (c.halves) (*floats)[i] = to_float(half);
      std::memcpy(bytes->data() + i * element,
                  c.halves ? static_cast<const void*>(&half) : &(*floats)[i], element);
    }
  }
  return cache;
}

struct Wanted {
  double value;
  double tolerance;
};

/// One output element.
Wanted reference(const Attention& c, uint32_t capacity, const Cache& cache,
                 const std::vector<float>& q, uint32_t t, uint32_t head, uint32_t d) {
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
  // A score: 3 roundings for the scaled query, head_dim / 32 products and 5 sums, one difference;
  // its power as much relatively, and 2 ulp of exp. Sum and values: a product and a sum for each
  // position, fading twice at most a step, a quotient.
  const double relative = widest * (c.head_dim / 32.0 + 10) + 6.0 * scores.size() + 24;
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
  const std::string suffix = c.halves ? "f16" : "f32";
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

void expect_attention(const Attention& c) {
  const uint32_t capacity = c.first_position + c.tokens + 1;
  const Cache cache = make_cache(c, capacity);
  const auto q = random_floats(size_t{c.tokens} * c.heads * c.head_dim, 1);
  const auto out = run_floats(c, capacity, cache, q);
  for (uint32_t t = 0; t < c.tokens; ++t) {
    for (uint32_t head = 0; head < c.heads; ++head) {
      for (uint32_t d = 0; d < c.head_dim; d += 1 + c.head_dim / 17) {
        const Wanted wanted = reference(c, capacity, cache, q, t, head, d);
        EXPECT_NEAR(out[(size_t{t} * c.heads + head) * c.head_dim + d], wanted.value,
                    wanted.tolerance);
      }
    }
  }
}

}  // namespace

TEST(metal_attention_agrees_with_double_arithmetic) {
  expect_attention({1, 1, 1, 0, 1, 1, false});
  expect_attention({4, 2, 8, 0, 3, 1, true});
  expect_attention({2, 1, 48, 36, 1, 1, false});
  expect_attention({2, 2, 64, 31, 2, 1, true});
  expect_attention({1, 1, 128, 99, 1, 1, true});
  expect_attention({1, 1, 256, 5, 1, 1, false});
}

TEST(metal_split_attention_agrees_with_double_arithmetic) {
  expect_attention({2, 1, 48, 66, 1, 3, true});
  expect_attention({1, 1, 128, 0, 2, 4, false});  // more splits than positions
  expect_attention({2, 2, 32, 127, 1, 8, true});
}

TEST(metal_attention_writes_the_codes_of_what_it_computes) {
  for (const uint32_t splits : {1u, 3u}) {
    const Attention c{3, 1, 64, 20, 2, splits, true};
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
