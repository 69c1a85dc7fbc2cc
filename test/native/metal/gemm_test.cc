// metal/sign_gemm.metal: a prompt's sums by simdgroup_matrix are the integers of decoding, and the
// codes made of them the codes of the fused kernels.
#include "metal/gemm.h"

#include "formats/signs/layout.h"
#include "formats/signs/loaded_codes.h"
#include "support/metal_linears.h"
#include "support/test.h"

namespace subbit::test {
namespace {

shader::GemvArgs args_of(const QuantizedRows& codes, uint32_t rows) {
  shader::GemvArgs args{};
  args.rows = rows;
  args.chunks = static_cast<uint32_t>(codes.chunks);
  args.input_chunks = args.chunks;
  args.headroom = static_cast<uint32_t>(headroom_bits(codes.cols));
  args.lanes_log2 = shader::gemv_lanes_log2(args.chunks);
  args.pair_quads = 1;
  args.tokens = static_cast<uint32_t>(codes.rows);
  return args;
}

/// The signs that code84's stored bits stand for: column j of word t of a block is stored word 0
/// there, and words 1, 2, 3 where t has bits 1, 2, 4.
SignMatrix expand_code84(const SignMatrix& stored) {
  SignMatrix expanded{stored.rows, 2 * stored.cols, {}};
  for (int64_t i = 0; i < expanded.rows; ++i) {
    for (int64_t j = 0; j < expanded.cols; ++j) {
      const int64_t block = i * stored.cols + j / 256 * 128 + j % 32;
      const int64_t t = j / 32 % 8;
      int bit = stored.bits[static_cast<size_t>(block)];
      for (int64_t k = 0; k < 3; ++k) {
        if ((t >> k & 1) != 0) bit ^= stored.bits[static_cast<size_t>(block + 32 * (k + 1))];
      }
      expanded.bits.push_back(static_cast<uint8_t>(bit));
    }
  }
  return expanded;
}

struct Sums {
  std::vector<int32_t> sums;
  std::vector<int32_t> exponents;
};

/// The dispatch's sums in one order of threads; run_gemm() insists on the same from each.
std::vector<int32_t> sums_in_order(const std::string& kernel, const SignMatrix& stored,
                                   const QuantizedRows& codes, ThreadOrder order) {
  std::vector<std::byte> bytes;
  pack_signs(stored, bytes);
  shader::GemvArgs args = args_of(codes, static_cast<uint32_t>(stored.rows));
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = args.rows;
  const ExactBuffer<std::byte> words(bytes);
  const ExactBuffer<uint32_t> qvecs(make_qvecs(codes, {}));
  const ExactBuffer<int32_t> sums(args.rows * args.tokens);
  const ExactBuffer<int32_t> exponents(args.tokens);
  metal_on_cpu::run({kernel,
                     {shader::gemm_row_groups(args.rows), shader::gemm_token_groups(args.tokens)},
                     {shader::kGemmThreads},
                     {bytes_of(args), bytes_of(epilogue), words.binding(), qvecs.binding(),
                      sums.binding(), exponents.binding()},
                     {shader::gemm_threadgroup_bytes(2)},
                     order});
  return sums.values();
}

Sums run_gemm(const std::string& kernel, const SignMatrix& stored, const QuantizedRows& codes) {
  std::vector<std::byte> bytes;
  pack_signs(stored, bytes);
  const auto rows = static_cast<uint32_t>(stored.rows);
  shader::GemvArgs args = args_of(codes, rows);
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = rows;
  const ExactBuffer<std::byte> words(bytes);
  const ExactBuffer<uint32_t> qvecs(make_qvecs(codes, {}));
  const ExactBuffer<int32_t> sums(rows * args.tokens);
  const ExactBuffer<int32_t> exponents(args.tokens);
  run_in_every_order({kernel,
                      {shader::gemm_row_groups(rows), shader::gemm_token_groups(args.tokens)},
                      {shader::kGemmThreads},
                      {bytes_of(args), bytes_of(epilogue), words.binding(), qvecs.binding(),
                       sums.binding(), exponents.binding()},
                      {shader::gemm_threadgroup_bytes(2)}},
                     {4, 5});
  return {sums.values(), exponents.values()};
}

void expect_gemm(const std::string& kernel, Shape shape, int64_t tokens, Values kind) {
  const bool code84 = kernel == "code84_gemm_sums";
  const SignMatrix stored = random_signs(shape.rows, shape.cols / (code84 ? 2 : 1), 1);
  const SignMatrix signs = code84 ? expand_code84(stored) : stored;
  const QuantizedRows codes =
      cpu_quantize(make_values(static_cast<size_t>(tokens * shape.cols), kind, 2), tokens);
  LoadedCodes loaded;
  ThreadPool pool(1);
  load_codes(codes, shape.cols, loaded, pool);
  const Sums got = run_gemm(kernel, stored, codes);
  for (int64_t t = 0; t < tokens; ++t) {
    EXPECT_EQ(got.exponents[static_cast<size_t>(t)], loaded.exponents[t]);
    for (int64_t i = 0; i < shape.rows; ++i) {
      int64_t sum = 0;
      for (int64_t j = 0; j < shape.cols; ++j) {
        const int64_t code = int64_t{loaded.codes[t * loaded.chunks * 32 + j]}
                             << loaded.shifts[t * loaded.chunks + j / 32];
        sum += signs.bits[static_cast<size_t>(i * shape.cols + j)] != 0 ? code : -code;
      }
      EXPECT_EQ(int64_t{got.sums[static_cast<size_t>(t * shape.rows + i)]}, sum);
    }
  }
}

}  // namespace

TEST(metal_sign_gemm_gives_the_integers_of_decoding) {
  for (const Shape shape : {Shape{1, 1}, Shape{63, 33}, Shape{65, 96}, Shape{129, 32}}) {
    for (const int64_t tokens : {1, 8, 9, 17, 33}) {
      expect_gemm("sign_gemm_sums", shape, tokens, Values::kNormal);
    }
  }
}

// Chunks far apart in size, whose low bits fall away; and codes so large that float sums would
// round were they not moved into integers on the way.
TEST(metal_sign_gemm_is_exact_where_float_sums_would_round) {
  for (const Values kind : {Values::kSpread, Values::kLargest}) {
    expect_gemm("sign_gemm_sums", {5, 1600}, 10, kind);
    expect_gemm("code84_gemm_sums", {66, 512}, 10, kind);
  }
}

TEST(metal_sign_gemm_without_its_barriers_is_found_out) {
  const SignMatrix signs = random_signs(64, 96, 1);
  const QuantizedRows codes = cpu_quantize(random_floats(32 * 96, 2), 32);
  int wrong = 0;
  for (const ThreadOrder order : kThreadOrders) {
    const auto right = sums_in_order("sign_gemm_sums", signs, codes, order);
    try {
      const auto got = sums_in_order("deleted_barrier_sign_gemm_sums", signs, codes, order);
      if (got != right) ++wrong;
    } catch (const metal_on_cpu::MetalError&) {  // where accesses are traced
      ++wrong;
    }
  }
  EXPECT(wrong >= 1);
}

TEST(metal_rank_codes_are_those_of_the_fused_kernels) {
  for (const Extras extras : {Extras::kNone, Extras::kBiasAndMidScale}) {
    const uint32_t tokens = 9;
    const Packed packed = make_packed(factored({8, 100}, 96, extras));
    const QuantizedRows codes = cpu_quantize(random_floats(tokens * 100, 3), tokens);
    const std::vector<float> rho = random_floats(tokens, 4);
    const std::vector<uint32_t> qvecs = make_qvecs(codes, rho);
    TwoStages fused(packed, qvecs, tokens);
    fused.run_first("sign_columns");

    const TermView& term = packed.view.terms[0].view;
    const SignMatrix v = random_signs(96, 100, 8);  // as factored() drew it
    const Sums first = run_gemm("sign_gemm_sums", v, codes);
    const bool scaled = extras == Extras::kBiasAndMidScale;
    shader::RankCodesArgs args{96, scaled ? shader::kEpilogueMidScale : 0u,
                               static_cast<uint32_t>(codes.chunks)};
    const ExactBuffer<int32_t> sums(first.sums);
    const ExactBuffer<int32_t> exponents(first.exponents);
    const ExactBuffer<uint32_t> input(qvecs);
    const ExactBuffer<Half> s_mid(scaled ? term.s_mid : std::span<const Half>(packed.view.s_post));
    const ExactBuffer<uint32_t> out(tokens * shader::qvec_words(3));
    const ExactBuffer<uint32_t> status(1, 0u);
    run_in_every_order({"rank_codes",
                        {1, tokens},
                        {shader::kGemmThreads},
                        {bytes_of(args), sums.binding(), exponents.binding(), input.binding(),
                         s_mid.binding(), out.binding(), status.binding()},
                        {}},
                       {5, 6});
    expect_same_words(out.values(), fused.rank_qvecs.values(), "rank codes");
  }
}

}  // namespace subbit::test
