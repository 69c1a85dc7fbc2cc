// The epilogues that finish a linear with what follows it, against the CPU's linear and the same
// float operations written down one by one: codes, rotated heads and cache to the bit.
#include <bit>
#include <cmath>

#include "models/rope.h"
#include "support/metal_linears.h"
#include "support/test.h"

namespace subbit::test {
namespace {

struct Prepared {
  Packed packed;
  QuantizedRows codes;
  std::vector<float> rho = {0.37f, 2.5f};
  std::vector<uint32_t> qvecs;
  std::vector<float> y;  // the CPU's, [2, rows]
};

Prepared prepare(Shape shape, int64_t rank) {
  Prepared p;
  p.packed = make_packed(factored(shape, rank, Extras::kBiasAndMidScale));
  p.codes = cpu_quantize(random_floats(static_cast<size_t>(2 * shape.cols), 3), 2);
  p.qvecs = make_qvecs(p.codes, p.rho);
  p.y = cpu_linear(p.packed, p.codes, p.rho,
                   std::vector<float>(static_cast<size_t>(2 * shape.rows)), OutputMode::kOverwrite);
  return p;
}

}  // namespace

TEST(metal_add_norm_adds_and_quantizes_what_the_next_norm_reads) {
  for (const int64_t rows : {1, 32, 33, 100, 288}) {
    const Prepared p = prepare({rows, 100}, 64);
    const auto count = static_cast<size_t>(rows);
    const auto h = random_floats(2 * count, 5);
    const auto weight = random_floats(count, 6);
    TwoStages s(p.packed, p.qvecs, 2);
    s.run_first("sign_gemv");
    s.epilogue.eps = 1e-5f;
    const uint32_t chunks = shader::chunks_of_columns(static_cast<uint32_t>(rows));
    const ExactBuffer<float> stream(h);
    const ExactBuffer<float> f(weight);
    const ExactBuffer<uint32_t> out(size_t{2} * shader::qvec_words(chunks));
    s.run_second("sign_gemv_add_norm", shader::kGemvThreads,
                 {stream.binding(), f.binding(), out.binding()}, {6, 8});

    std::vector<float> wanted(2 * count);
    std::vector<float> normed(2 * count);
    for (size_t i = 0; i < 2 * count; ++i) {
      wanted[i] = h[i] + p.y[i];
      normed[i] = wanted[i] * weight[i % count];
    }
    const auto got = stream.values();
    expect_same_words(bits_of(got), bits_of(wanted), "h");
    auto qvecs = make_qvecs(cpu_quantize(normed, 2), {});
    for (uint32_t t = 0; t < 2; ++t) {
      const uint32_t first = t * shader::qvec_words(chunks);
      qvecs[first + shader::kHeaderColumns] = static_cast<uint32_t>(rows);
      qvecs[first + shader::kHeaderRho] = std::bit_cast<uint32_t>(1e-5f);
      for (uint32_t c = 0; c < chunks; ++c) {
        const uint32_t at = first + shader::qvec_squares_at(chunks) + c;
        double squares = 0;
        for (size_t j = 32 * c; j < std::min<size_t>(32 * c + 32, count); ++j) {
          squares += double{wanted[t * count + j]} * wanted[t * count + j];
        }
        // 32 squares and 31 sums, each rounded once.
        EXPECT_NEAR(std::bit_cast<float>(out[at]), squares, 32 * 0x1p-24 * squares);
        qvecs[at] = out[at];
      }
    }
    expect_same_words(out.values(), qvecs, "QVec of " + std::to_string(rows));
    EXPECT_EQ(s.status[0], 0u);
  }
}

TEST(metal_swiglu_epilogue_multiplies_gate_and_up) {
  for (const int64_t ffn : {4, 32, 36, 100, 160}) {
    const Prepared p = prepare({2 * ffn, 70}, 96);
    TwoStages s(p.packed, p.qvecs, 2);
    s.run_first("sign_gemv");
    s.second.pair_quads = static_cast<uint32_t>(ffn / 4);
    const uint32_t chunks = shader::chunks_of_columns(static_cast<uint32_t>(ffn));
    std::vector<float> product;
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t j = 0; j < ffn; ++j) {
        const float gate = p.y[static_cast<size_t>(t * 2 * ffn + j)];
        const float up = p.y[static_cast<size_t>(t * 2 * ffn + ffn + j)];
        product.push_back(gate / (1.0f + std::exp(-gate)) * up);
      }
    }
    for (uint32_t log2 = 3; log2 <= 5; ++log2) {
      s.second.lanes_log2 = log2;
      const ExactBuffer<uint32_t> out(size_t{2} * shader::qvec_words(chunks));
      s.run_second(log2 == 4 ? "sign_columns_swiglu" : "sign_gemv_swiglu", shader::kSwigluThreads,
                   {out.binding()}, {6});
      expect_same_words(out.values(), make_qvecs(cpu_quantize(product, 2), {}),
                        "ffn " + std::to_string(ffn));
    }
  }
}

TEST(metal_qkv_epilogue_rotates_and_fills_the_cache) {
  struct Case {
    int64_t heads, kv_heads, head_dim;
    bool halves;
  };
  for (const Case& c : {Case{1, 1, 8, false}, Case{4, 2, 48, true}, Case{3, 3, 64, true}}) {
    const int64_t rows = (c.heads + 2 * c.kv_heads) * c.head_dim;
    const Prepared p = prepare({rows, 100}, 64);
    const uint32_t capacity = 5;
    const uint32_t first = 2;
    std::vector<double> frequencies;
    for (int64_t i = 0; i < c.head_dim / 2; ++i) frequencies.push_back(std::pow(0.7, double(i)));
    const RopeTable rope = make_rope_table(frequencies, capacity);
    TwoStages s(p.packed, p.qvecs, 2);
    s.run_first("sign_gemv");
    s.second.pair_quads = static_cast<uint32_t>(c.head_dim / 8);
    s.epilogue.flags |= c.halves ? uint32_t{shader::kEpilogueHalfCache} : 0u;
    s.epilogue.y_stride = static_cast<uint32_t>(c.heads * c.head_dim);
    s.epilogue.heads = static_cast<uint32_t>(c.heads);
    s.epilogue.kv_heads = static_cast<uint32_t>(c.kv_heads);
    s.epilogue.head_dim = static_cast<uint32_t>(c.head_dim);
    s.epilogue.capacity = capacity;
    s.epilogue.first_position = first;
    const auto cached = static_cast<size_t>(c.kv_heads * capacity * c.head_dim);
    const size_t element = c.halves ? 2 : 4;
    const ExactBuffer<float> q(static_cast<size_t>(2 * c.heads * c.head_dim));
    const ExactBuffer<std::byte> keys(cached * element);
    const ExactBuffer<std::byte> values(cached * element);
    const ExactBuffer<float> cosine(rope.cosine);
    const ExactBuffer<float> sine(rope.sine);
    s.run_second(c.halves ? "sign_gemv_qkv" : "sign_columns_qkv", shader::kGemvThreads,
                 {q.binding(), keys.binding(), values.binding(), cosine.binding(), sine.binding()},
                 {6, 7, 8});

    const auto bits = [&](const ExactBuffer<std::byte>& side, size_t i) {
      uint32_t word = 0;
      std::memcpy(&word, side.data() + i * element, element);
      return word;
    };
    const auto stored = [&](float value) {
      return c.halves ? uint32_t{to_half(value).bits} : std::bit_cast<uint32_t>(value);
    };
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t head = 0; head < c.heads + 2 * c.kv_heads; ++head) {
        for (int64_t d = 0; d < c.head_dim; ++d) {
          const float* row = p.y.data() + t * rows + head * c.head_dim;
          const int64_t half = c.head_dim / 2;
          const int64_t i = d % half;
          const auto angle = static_cast<size_t>((first + t) * half + i);
          float wanted = row[d];
          if (head < c.heads + c.kv_heads) {
            wanted = d < half ? row[i] * rope.cosine[angle] - row[i + half] * rope.sine[angle]
                              : row[i + half] * rope.cosine[angle] + row[i] * rope.sine[angle];
          }
          if (head < c.heads) {
            EXPECT_EQ(q[static_cast<size_t>((t * c.heads + head) * c.head_dim + d)], wanted);
            continue;
          }
          const bool key = head < c.heads + c.kv_heads;
          const int64_t kv_head = head - c.heads - (key ? 0 : c.kv_heads);
          const auto at = static_cast<size_t>((kv_head * capacity + first + t) * c.head_dim + d);
          EXPECT_EQ(bits(key ? keys : values, at), stored(wanted));
        }
      }
    }
    // Positions that are nobody's stay as they were.
    EXPECT_EQ(bits(keys, 0), c.halves ? 0xFFFFu : 0xFFFFFFFFu);
  }
}

TEST(metal_scale_that_is_no_number_is_reported) {
  Prepared p = prepare({8, 32}, 32);
  p.qvecs[shader::kHeaderRho] = std::bit_cast<uint32_t>(0.0f);
  TwoStages s(p.packed, p.qvecs, 1);
  s.run_first("sign_gemv");
  const ExactBuffer<float> y(8);
  s.run_second("sign_gemv_store", shader::kGemvThreads, {y.binding()}, {6});
  EXPECT_EQ(s.status[0], uint32_t{shader::kStatusScale});
}

}  // namespace subbit::test
