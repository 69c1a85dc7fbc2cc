// metal/elementwise.metal: each operation against the same float operations written down, several
// tokens, strides wider than rows.
#include "metal/elementwise.h"

#include <bit>
#include <cmath>
#include <limits>

#include "backend/cpu/attention_kernels.h"
#include "base/half.h"
#include "metal/read_bandwidth.h"
#include "models/rope.h"
#include "support/metal_kernels.h"
#include "support/test.h"

namespace subbit::test {
namespace {

constexpr Size3 kThreads = {shader::kElementThreads};

uint32_t groups_of(uint32_t columns) {
  return (columns + shader::kElementThreads - 1) / shader::kElementThreads;
}

int32_t argmax(const std::vector<float>& logits, uint32_t expected_status = 0) {
  shader::ArgmaxArgs args{static_cast<uint32_t>(logits.size())};
  const ExactBuffer<float> in(logits);
  const ExactBuffer<int32_t> out(1);
  const ExactBuffer<uint32_t> status(1, 0u);
  run_in_every_order({"argmax",
                      {},
                      kThreads,
                      {bytes_of(args), in.binding(), out.binding(), status.binding()},
                      {shader::kReduceBytes}},
                     {2, 3});
  EXPECT_EQ(status[0], expected_status);
  return out[0];
}

}  // namespace

TEST(metal_rms_norm_leaves_products_and_row_scales) {
  for (const uint32_t columns : {1u, 33u, 288u, 1000u}) {
    const uint32_t stride = columns + 2;
    const auto x = random_floats(2 * stride, 1);
    const auto weight = random_floats(columns, 2);
    shader::RmsNormArgs args{columns, stride, columns, 1e-5f};
    const ExactBuffer<float> in(x);
    const ExactBuffer<float> f(weight);
    const ExactBuffer<float> out(2 * columns);
    const ExactBuffer<float> scale(2);
    run_in_every_order({"rms_norm",
                        {1, 2},
                        kThreads,
                        {bytes_of(args), in.binding(), f.binding(), out.binding(), scale.binding()},
                        {shader::kReduceBytes}},
                       {3, 4});
    for (uint32_t t = 0; t < 2; ++t) {
      double squares = 0;
      for (uint32_t j = 0; j < columns; ++j) {
        EXPECT_EQ(out[t * columns + j], x[t * stride + j] * weight[j]);
        squares += double{x[t * stride + j]} * x[t * stride + j];
      }
      const double wanted = 1.0 / std::sqrt(squares / columns + 1e-5f);
      // Sums of columns / 256 + 5 + 8 squares, halved by the root, and 4 roundings after.
      EXPECT_NEAR(scale[t], wanted, (columns / 512.0 + 11) * 0x1p-24 * wanted);
    }
  }
}

TEST(metal_rope_rotates_pairs_half_a_head_apart) {
  const RopeTable rope = make_rope_table({1.0, 0.3, 0.01}, 7);
  const auto x = random_floats(2 * 20, 3);
  shader::RopeArgs args{3, 3, 4, 20};
  const ExactBuffer<float> cosine(rope.cosine);
  const ExactBuffer<float> sine(rope.sine);
  const ExactBuffer<float> out(x);
  run_in_every_order({"rope",
                      {groups_of(9), 2},
                      kThreads,
                      {bytes_of(args), cosine.binding(), sine.binding(), out.binding()},
                      {}},
                     {3});
  for (uint32_t t = 0; t < 2; ++t) {
    for (uint32_t pair = 0; pair < 9; ++pair) {
      const uint32_t low = t * 20 + pair / 3 * 6 + pair % 3;
      const float c = rope.cosine[(4 + t) * 3 + pair % 3];
      const float s = rope.sine[(4 + t) * 3 + pair % 3];
      EXPECT_EQ(out[low], x[low] * c - x[low + 3] * s);
      EXPECT_EQ(out[low + 3], x[low + 3] * c + x[low] * s);
    }
    EXPECT_EQ(out[t * 20 + 18], x[t * 20 + 18]);
  }
}

TEST(metal_kv_append_stores_where_attention_reads) {
  for (const bool halves : {false, true}) {
    const uint32_t kv_heads = 2, head_dim = 6, capacity = 5, stride = 13;
    const auto k = random_floats(2 * stride, 4);
    const auto v = random_floats(2 * stride, 5);
    shader::KvAppendArgs args{kv_heads, head_dim, capacity, 1, stride, stride};
    const ExactBuffer<float> k_in(k);
    const ExactBuffer<float> v_in(v);
    const size_t element = halves ? 2 : 4;
    const ExactBuffer<std::byte> keys(kv_heads * capacity * head_dim * element);
    const ExactBuffer<std::byte> values(kv_heads * capacity * head_dim * element);
    run_in_every_order(
        {halves ? "kv_append_f16" : "kv_append_f32",
         {groups_of(12), 2},
         kThreads,
         {bytes_of(args), k_in.binding(), v_in.binding(), keys.binding(), values.binding()},
         {}},
        {3, 4});
    for (uint32_t t = 0; t < 2; ++t) {
      for (uint32_t column = 0; column < 12; ++column) {
        const size_t at = (column / 6 * capacity + 1 + t) * 6 + column % 6;
        uint32_t key = 0;
        uint32_t value = 0;
        std::memcpy(&key, keys.data() + at * element, element);
        std::memcpy(&value, values.data() + at * element, element);
        const auto bits = [&](float f) {
          return halves ? uint32_t{to_half(f).bits} : std::bit_cast<uint32_t>(f);
        };
        EXPECT_EQ(key, bits(k[t * stride + column]));
        EXPECT_EQ(value, bits(v[t * stride + column]));
      }
    }
  }
}

TEST(metal_kv_append_i8_stores_the_bytes_that_the_cpu_does) {
  for (const uint32_t head_dim : {1u, 6u, 32u, 48u, 128u}) {
    const uint32_t kv_heads = 2, capacity = 4, stride = kv_heads * head_dim + 1;
    auto k = random_floats(2 * stride, 4);
    const auto v = random_floats(2 * stride, 5);
    for (uint32_t d = 0; d < head_dim; ++d) k[stride + d] *= 0x1p-110f;  // a row of zeros
    shader::KvAppendArgs args{kv_heads, head_dim, capacity, 1, stride, stride};
    const ExactBuffer<float> k_in(k);
    const ExactBuffer<float> v_in(v);
    const auto bytes = static_cast<size_t>(kv_row_bytes(KvType::kI8, head_dim));
    const ExactBuffer<std::byte> keys(kv_heads * capacity * bytes);
    const ExactBuffer<std::byte> values(kv_heads * capacity * bytes);
    run_in_every_order(
        {"kv_append_i8",
         {kv_heads, 2, 2},
         {32},
         {bytes_of(args), k_in.binding(), v_in.binding(), keys.binding(), values.binding()},
         {}},
        {3, 4});
    for (uint32_t t = 0; t < 2; ++t) {
      for (uint32_t head = 0; head < kv_heads; ++head) {
        std::vector<std::byte> wanted(bytes);
        const size_t from = t * stride + head * head_dim;
        const size_t at = (head * capacity + 1 + t) * bytes;
        store_codes({k.data() + from, head_dim}, wanted.data());
        EXPECT(std::memcmp(keys.data() + at, wanted.data(), bytes) == 0);
        store_codes({v.data() + from, head_dim}, wanted.data());
        EXPECT(std::memcmp(values.data() + at, wanted.data(), bytes) == 0);
      }
    }
  }
}

// One kernel for what rope, rope and kv_append_i8 do one after another: the same bits.
TEST(metal_rope_append_i8_rotates_and_stores_as_three_kernels_do) {
  for (const uint32_t head_dim : {6u, 64u, 200u}) {
    const uint32_t heads = 2, kv_heads = 1, capacity = 6, half = head_dim / 2;
    const uint32_t k_at = heads * head_dim, v_at = k_at + kv_heads * head_dim;
    const uint32_t stride = v_at + kv_heads * head_dim;
    const RopeTable rope = make_rope_table(std::vector<double>(half, 0.3), 7);
    const auto row = random_floats(2 * stride, 4);
    const auto bytes = static_cast<size_t>(kv_row_bytes(KvType::kI8, head_dim));
    const ExactBuffer<float> cosine(rope.cosine);
    const ExactBuffer<float> sine(rope.sine);
    const auto part = [&](const ExactBuffer<float>& buffer, uint32_t at) {
      Binding binding = buffer.binding();
      binding.data = static_cast<std::byte*>(binding.data) + 4 * at;
      binding.bytes -= 4 * at;
      return binding;
    };

    const ExactBuffer<float> steps(row);
    for (const uint32_t at : {0u, k_at}) {
      const uint32_t count = at == 0 ? heads : kv_heads;
      shader::RopeArgs args{count, half, 2, stride};
      metal_on_cpu::run({"rope",
                         {groups_of(count * half), 2},
                         kThreads,
                         {bytes_of(args), cosine.binding(), sine.binding(), part(steps, at)},
                         {}});
    }
    shader::KvAppendArgs append{kv_heads, head_dim, capacity, 2, stride, stride};
    const ExactBuffer<std::byte> keys(kv_heads * capacity * bytes);
    const ExactBuffer<std::byte> values(kv_heads * capacity * bytes);
    metal_on_cpu::run(
        {"kv_append_i8",
         {kv_heads, 2, 2},
         {32},
         {bytes_of(append), part(steps, k_at), part(steps, v_at), keys.binding(), values.binding()},
         {}});

    shader::RopeAppendArgs args{heads, kv_heads, head_dim, capacity, 2, stride, stride, stride};
    const ExactBuffer<float> fused(row);
    const ExactBuffer<std::byte> fused_keys(kv_heads * capacity * bytes);
    const ExactBuffer<std::byte> fused_values(kv_heads * capacity * bytes);
    run_in_every_order(
        {"rope_append_i8",
         {heads + 2 * kv_heads, 2},
         {32},
         {bytes_of(args), cosine.binding(), sine.binding(), part(fused, 0), part(fused, k_at),
          part(fused, v_at), fused_keys.binding(), fused_values.binding()},
         {}},
        {3, 6, 7});
    for (uint32_t t = 0; t < 2; ++t) {
      for (uint32_t j = 0; j < k_at; ++j) EXPECT_EQ(fused[t * stride + j], steps[t * stride + j]);
      const size_t at = (2 + t) * bytes;
      EXPECT(std::memcmp(fused_keys.data() + at, keys.data() + at, bytes) == 0);
      EXPECT(std::memcmp(fused_values.data() + at, values.data() + at, bytes) == 0);
    }
  }
}

TEST(metal_swiglu_multiplies_silu_of_gate_by_up) {
  const uint32_t columns = 300;
  const auto gate = random_floats(2 * columns, 6);
  const auto up = random_floats(2 * columns + 2, 7);
  shader::SwigluArgs args{columns, columns, columns + 2, columns};
  const ExactBuffer<float> g(gate);
  const ExactBuffer<float> u(up);
  const ExactBuffer<float> out(2 * columns);
  run_in_every_order({"swiglu",
                      {groups_of(columns), 2},
                      kThreads,
                      {bytes_of(args), g.binding(), u.binding(), out.binding()},
                      {}},
                     {3});
  for (uint32_t t = 0; t < 2; ++t) {
    for (uint32_t j = 0; j < columns; ++j) {
      const float x = gate[t * columns + j];
      EXPECT_EQ(out[t * columns + j], x / (1.0f + std::exp(-x)) * up[t * (columns + 2) + j]);
    }
  }
}

TEST(metal_argmax_takes_the_first_of_the_largest) {
  for (const uint32_t count : {1u, 31u, 257u, 2000u}) {
    std::vector<float> logits = random_floats(count, count);
    const uint32_t at = count * 2 / 3;
    logits[at] = 9.0f;
    EXPECT_EQ(argmax(logits), static_cast<int32_t>(at));
    logits[count - 1] = 9.0f;
    EXPECT_EQ(argmax(logits), static_cast<int32_t>(at));
    logits[0] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(argmax(logits, shader::kStatusLogit), static_cast<int32_t>(count == 1 ? 0 : at));
  }
  const std::vector<float> infinities(40, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(argmax(infinities, shader::kStatusLogit), 0);
}

TEST(metal_read_bandwidth_loads_every_unit_once) {
  for (const uint32_t units : {1u, 255u, 16384u, 16385u}) {
    const std::vector<uint32_t> words(4 * units, 1u);
    shader::ReadBandwidthArgs args{units};
    const uint32_t groups = shader::read_groups(units);
    const ExactBuffer<uint32_t> memory(words);
    const ExactBuffer<uint32_t> sums(groups);
    run_in_every_order({"read_bandwidth",
                        {groups},
                        {shader::kReadThreads},
                        {bytes_of(args), memory.binding(), sums.binding()},
                        {4 * shader::kReadSimdgroups}},
                       {2});
    uint32_t total = 0;
    for (uint32_t i = 0; i < groups; ++i) total += sums[i];
    EXPECT_EQ(total, 4 * units);
  }
}

}  // namespace subbit::test
