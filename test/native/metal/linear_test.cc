// The sign kernels of metal/ against the CPU engine: int32 sums to the bit for every shape, lane
// count, thread order and both ways to multiply; whole packed linears to the bit too, because given
// the same rho nothing in their epilogue may differ.
#include "metal/linear.h"

#include "formats/code84/code84.h"
#include "formats/signs/sign_dot.h"
#include "support/metal_linears.h"
#include "support/test.h"

namespace subbit::test {
namespace {

/// A sign matrix on both sides.
struct Problem {
  uint32_t rows;
  uint32_t columns;
  std::vector<std::byte> words;
  QuantizedRows codes;
  std::vector<uint32_t> qvecs;
};

Problem make_problem(uint32_t rows, uint32_t columns, uint32_t tokens, Values kind) {
  Problem p{rows, columns, {}, {}, {}};
  pack_signs(random_signs(rows, columns, rows * 1000 + columns), p.words);
  p.codes = cpu_quantize(make_values(size_t{tokens} * columns, kind, columns), tokens);
  p.qvecs = make_qvecs(p.codes, {});
  return p;
}

shader::GemvArgs gemv_args(const Problem& p, uint32_t lanes_log2) {
  shader::GemvArgs args{};
  args.rows = p.rows;
  args.chunks = shader::chunks_of_columns(p.columns);
  args.input_chunks = args.chunks;
  args.headroom = static_cast<uint32_t>(headroom_bits(p.columns));
  args.lanes_log2 = lanes_log2;
  args.pair_quads = 1;
  return args;
}

void expect_sums_exact(const std::string& kernel, const Problem& p, uint32_t lanes_log2) {
  shader::GemvArgs args = gemv_args(p, lanes_log2);
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = p.rows;
  const auto tokens = static_cast<uint32_t>(p.codes.rows);
  const ExactBuffer<std::byte> words(p.words);
  const ExactBuffer<uint32_t> qvecs(p.qvecs);
  const ExactBuffer<uint32_t> sums(size_t{tokens} * p.rows);
  const ExactBuffer<int32_t> exponents(tokens);
  args.tokens = tokens;
  Dispatch dispatch = gemv_dispatch(kernel, args, shader::kGemvThreads, tokens);
  dispatch.buffers = {bytes_of(args),  bytes_of(epilogue), words.binding(),
                      qvecs.binding(), sums.binding(),     exponents.binding()};
  run_in_every_order(dispatch, {4, 5});
  ThreadPool pool(1);
  SignOperand operand;
  load_sign_operand(p.codes, operand, pool);
  std::vector<int32_t> wanted(size_t{tokens} * p.rows);
  sign_dot({p.words.data(), p.rows, p.columns, 0}, operand,
           MatrixView<int32_t>(wanted.data(), tokens, p.rows), pool);
  const auto* bits = reinterpret_cast<const uint32_t*>(wanted.data());
  expect_same_words(sums.values(), {bits, wanted.size()},
                    kernel + " " + std::to_string(p.rows) + " x " + std::to_string(p.columns) +
                        ", 2^" + std::to_string(lanes_log2) + " lanes");
  for (uint32_t t = 0; t < tokens; ++t) EXPECT_EQ(exponents[t], operand.codes.exponents[t]);
}

}  // namespace

TEST(metal_sign_gemv_sums_equal_the_cpu_to_the_bit) {
  for (const uint32_t columns : {1u, 31u, 32u, 33u, 64u, 172u, 288u, 1025u}) {
    for (const uint32_t rows : {1u, 3u, 4u, 5u, 33u}) {
      const Values kind = rows == 33 ? Values::kSpread : Values::kNormal;
      const Problem p = make_problem(rows, columns, 1, kind);
      for (uint32_t log2 = 3; log2 <= 5; ++log2) expect_sums_exact("sign_gemv_sums", p, log2);
    }
  }
  expect_sums_exact("sign_gemv_sums", make_problem(70, 4096, 1, Values::kLargest), 5);
  expect_sums_exact("sign_gemv_sums", make_problem(9, 11008, 2, Values::kLargest), 3);
}

TEST(metal_sign_columns_sums_equal_the_cpu_for_any_number_of_tokens) {
  for (const uint32_t tokens : {1u, 3u, 4u, 5u, 9u}) {
    const Problem p = make_problem(37, 172, tokens, Values::kSpread);
    for (uint32_t log2 = 3; log2 <= 5; ++log2) expect_sums_exact("sign_columns_sums", p, log2);
  }
}

TEST(metal_select_gemv_sums_equal_the_cpu_to_the_bit) {
  for (const uint32_t columns : {1u, 33u, 172u, 288u}) {
    for (const Values kind : {Values::kNormal, Values::kSpread, Values::kLargest}) {
      const Problem p = make_problem(37, columns, 2, kind);
      for (uint32_t log2 = 3; log2 <= 5; ++log2) expect_sums_exact("select_gemv_sums", p, log2);
    }
  }
}

TEST(metal_code84_gemv_sums_equal_the_cpu_to_the_bit) {
  for (const uint32_t columns : {256u, 768u, 2304u}) {
    for (const uint32_t rows : {1u, 5u, 36u}) {
      Problem p = make_problem(rows, columns, 1, Values::kSpread);
      const SignMatrix stored = random_signs(rows, columns / 2, rows + columns);
      p.words.clear();
      pack_signs(stored, p.words);
      const std::vector<std::byte> packed = p.words;
      std::vector<std::byte> expanded;
      pack_signs(expand_code84(stored), expanded);
      for (uint32_t log2 = 3; log2 <= 5; ++log2) {
        Problem sign = make_problem(rows, columns, 1, Values::kSpread);
        sign.words = expanded;
        expect_sums_exact("sign_gemv_sums", sign, log2);
        // The same sums from half the bytes: the reference multiplies the expanded words.
        shader::GemvArgs args = gemv_args(p, log2);
        shader::EpilogueArgs epilogue{};
        epilogue.y_stride = rows;
        const ExactBuffer<std::byte> words(packed);
        const ExactBuffer<std::byte> wide(expanded);
        const ExactBuffer<uint32_t> qvecs(p.qvecs);
        const ExactBuffer<uint32_t> sums(rows);
        const ExactBuffer<uint32_t> wanted(rows);
        const ExactBuffer<int32_t> exponents(1);
        Dispatch d{"code84_gemv_sums",
                   {shader::gemv_groups(rows, shader::kGemvThreads, log2)},
                   {shader::kGemvThreads},
                   {bytes_of(args), bytes_of(epilogue), words.binding(), qvecs.binding(),
                    sums.binding(), exponents.binding()},
                   {shader::gemv_threadgroup_bytes(shader::kGemvThreads, log2)}};
        run_in_every_order(d, {4, 5});
        args.tokens = 1;
        const std::vector<uint32_t> first = sums.values();
        d.kernel = "code84_columns_sums";
        d.threadgroup_bytes[0] *= shader::kColumnTokens;
        run_in_every_order(d, {4, 5});
        expect_same_words(sums.values(), first, "code84_columns");
        d.kernel = "sign_gemv_sums";
        d.buffers[2] = wide.binding();
        d.buffers[4] = wanted.binding();
        metal_on_cpu::run(d);
        expect_same_words(sums.values(), wanted.values(), "code84");
      }
    }
  }
}

TEST(metal_factored_linear_equals_the_cpu_to_the_bit) {
  struct Case {
    Shape shape;
    int64_t rank;
    Extras extras;
  };
  for (const Case& c :
       {Case{{1, 32}, 32, Extras::kNone}, Case{{37, 172}, 64, Extras::kBiasAndMidScale},
        Case{{100, 288}, 96, Extras::kNone}, Case{{68, 100}, 32, Extras::kBiasAndMidScale}}) {
    const Packed packed = make_packed(factored(c.shape, c.rank, c.extras));
    const std::vector<float> rho = {0.37f, 2.5f};
    const QuantizedRows codes =
        cpu_quantize(make_values(static_cast<size_t>(2 * c.shape.cols), Values::kSpread, 3), 2);
    const std::vector<uint32_t> qvecs = make_qvecs(codes, rho);
    const auto h = random_floats(static_cast<size_t>(2 * c.shape.rows), 12);
    for (const std::string prefix : {"sign_gemv", "select_gemv", "sign_columns"}) {
      for (const bool add : {false, true}) {
        TwoStages s(packed, qvecs, 2);
        s.run_first(prefix);
        const ExactBuffer<float> y(h);
        s.run_second(prefix + (add ? "_add" : "_store"), shader::kGemvThreads, {y.binding()}, {6});
        const auto wanted =
            cpu_linear(packed, codes, rho, h, add ? OutputMode::kAdd : OutputMode::kOverwrite);
        const auto got = y.values();
        expect_same_words(bits_of(got), bits_of(wanted), prefix);
        EXPECT_EQ(s.status[0], 0u);
      }
    }
  }
}

}  // namespace subbit::test
