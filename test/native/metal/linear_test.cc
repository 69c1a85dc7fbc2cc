// The sign kernels of metal/ against the CPU engine: int32 sums to the bit for every shape, lane
// count, thread order and both ways to multiply; whole packed linears to the bit too, because given
// the same rho nothing in their epilogue may differ.
#include "metal/linear.h"

#include <bit>
#include <cmath>

#include "formats/code84/code84.h"
#include "formats/packed/pack.h"
#include "formats/packed/packed.h"
#include "formats/registry.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_dot.h"
#include "support/metal_kernels.h"
#include "support/test.h"

namespace subbit::test {
namespace {

SignMatrix random_signs(int64_t rows, int64_t cols, uint64_t seed) {
  Rng rng(seed);
  SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  for (uint8_t& bit : signs.bits) bit = rng.next() & 1;
  return signs;
}

/// Floats whose chunks spread over exponents, so that shifts and drops all occur; or all codes at
/// their largest in every chunk.
enum class Values { kNormal, kSpread, kLargest };

std::vector<float> make_values(size_t count, Values kind, uint64_t seed) {
  std::vector<float> values = random_floats(count, seed);
  for (size_t j = 0; j < count; ++j) {
    if (kind == Values::kLargest) values[j] = values[j] < 0 ? -127.0f : 127.0f;
    if (kind == Values::kSpread) values[j] = std::ldexp(values[j], -static_cast<int>(j / 32 % 21));
  }
  return values;
}

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
  run_in_every_order({kernel,
                      {shader::gemv_groups(p.rows, shader::kGemvThreads, lanes_log2), tokens},
                      {shader::kGemvThreads},
                      {bytes_of(args), bytes_of(epilogue), words.binding(), qvecs.binding(),
                       sums.binding(), exponents.binding()},
                      {shader::gemv_threadgroup_bytes(shader::kGemvThreads, lanes_log2)}},
                     {4, 5});
  SignOperand operand;
  load_sign_operand(p.codes, operand);
  std::vector<int32_t> wanted(size_t{tokens} * p.rows);
  ThreadPool pool(1);
  sign_dot({p.words.data(), p.rows, p.columns, 0}, operand,
           MatrixView<int32_t>(wanted.data(), tokens, p.rows), pool);
  const auto* bits = reinterpret_cast<const uint32_t*>(wanted.data());
  expect_same_words(sums.values(), {bits, wanted.size()},
                    kernel + " " + std::to_string(p.rows) + " x " + std::to_string(p.columns) +
                        ", 2^" + std::to_string(lanes_log2) + " lanes");
  for (uint32_t t = 0; t < tokens; ++t) EXPECT_EQ(exponents[t], operand.codes.exponents[t]);
}

/// A packed linear on both sides: its tensor, and the parts of it that kernels bind.
struct Packed {
  std::vector<std::byte> bytes;
  std::unique_ptr<Weight> weight;
  PackedView view;
};

Packed make_packed(PackedLinear linear) {
  Packed packed;
  packed.bytes = pack(linear);
  packed.view = parse_packed(packed.bytes, "test");
  const TensorView tensor{"test.packed", DType::kU8, {std::ssize(packed.bytes)}, packed.bytes};
  packed.weight = find_format("packed")->view(tensor, linear.shape);
  return packed;
}

PackedLinear factored(int64_t rows, int64_t columns, int64_t rank, bool extras) {
  PackedLinear linear;
  linear.shape = {rows, columns};
  linear.s_post = random_floats(static_cast<size_t>(rows), 7);
  PackedTerm term;
  term.kind = find_term_kind("factored")->tag();
  term.rank = rank;
  term.columns = columns;
  term.gain = 0.0123f;
  term.matrices = {random_signs(rank, columns, 8), random_signs(rows, rank, 9)};
  if (extras) {
    term.s_mid = random_floats(static_cast<size_t>(rank), 10);
    linear.bias = random_floats(static_cast<size_t>(rows), 11);
  }
  linear.terms.push_back(std::move(term));
  return linear;
}

template <typename T>
ExactBuffer<T> or_one(std::span<const T> values) {
  return values.empty() ? ExactBuffer<T>(1) : ExactBuffer<T>(values);
}

/// A factored linear's two dispatches; the second one's epilogue is the caller's.
struct TwoStages {
  uint32_t tokens;
  uint32_t rank;
  ExactBuffer<std::byte> v;
  ExactBuffer<std::byte> u;
  ExactBuffer<uint32_t> input;
  ExactBuffer<uint32_t> rank_qvecs;
  ExactBuffer<uint32_t> status;
  ExactBuffer<Half> s_mid;
  ExactBuffer<Half> s_post;
  ExactBuffer<float> bias;
  shader::GemvArgs second;
  shader::EpilogueArgs epilogue;
};

TwoStages two_stages(const Packed& packed, const std::vector<uint32_t>& qvecs, uint32_t tokens) {
  const TermView& term = packed.view.terms[0].view;
  const auto rank = static_cast<uint32_t>(term.shape.rank);
  const auto columns = static_cast<uint32_t>(term.shape.columns);
  const size_t split = sign_bytes(rank, columns);
  TwoStages s{tokens,
              rank,
              ExactBuffer<std::byte>(term.words.first(split)),
              ExactBuffer<std::byte>(term.words.subspan(split)),
              ExactBuffer<uint32_t>(qvecs),
              ExactBuffer<uint32_t>(size_t{tokens} * shader::qvec_words(rank / 32)),
              ExactBuffer<uint32_t>(1, 0u),
              or_one(term.s_mid),
              ExactBuffer<Half>(packed.view.s_post),
              or_one(packed.view.bias),
              {},
              {}};
  s.second.rows = static_cast<uint32_t>(packed.view.shape.rows);
  s.second.chunks = rank / 32;
  s.second.input_chunks = rank / 32;
  s.second.headroom = static_cast<uint32_t>(headroom_bits(rank));
  s.second.lanes_log2 = shader::gemv_lanes_log2(s.second.chunks);
  s.second.pair_quads = 1;
  s.epilogue.gain = term.gain;
  if (!packed.view.bias.empty()) s.epilogue.flags = shader::kEpilogueBias;
  s.epilogue.y_stride = s.second.rows;
  return s;
}

void run_first_stage(TwoStages& s, const std::string& prefix, uint32_t columns) {
  shader::GemvArgs args{};
  args.rows = s.rank;
  args.chunks = shader::chunks_of_columns(columns);
  args.input_chunks = args.chunks;
  args.headroom = static_cast<uint32_t>(headroom_bits(columns));
  args.lanes_log2 = shader::gemv_lanes_log2(args.chunks);
  args.pair_quads = 1;
  shader::EpilogueArgs epilogue{};
  if (s.s_mid.size() == s.rank) epilogue.flags = shader::kEpilogueMidScale;
  run_in_every_order(
      {prefix + "_rank",
       {shader::gemv_groups(args.rows, shader::kGemvThreads, args.lanes_log2), s.tokens},
       {shader::kGemvThreads},
       {bytes_of(args), bytes_of(epilogue), s.v.binding(), s.input.binding(), s.s_mid.binding(),
        s.rank_qvecs.binding(), s.status.binding()},
       {shader::gemv_threadgroup_bytes(shader::kGemvThreads, args.lanes_log2)}},
      {5, 6});
}

/// The second stage into `targets`, which stand between bias and status in the kernel's list.
void run_second_stage(TwoStages& s, const std::string& kernel, uint32_t threads,
                      const std::vector<Binding>& targets, const std::vector<size_t>& outputs) {
  std::vector<Binding> buffers = {bytes_of(s.second),     bytes_of(s.epilogue), s.u.binding(),
                                  s.rank_qvecs.binding(), s.s_post.binding(),   s.bias.binding()};
  buffers.insert(buffers.end(), targets.begin(), targets.end());
  buffers.push_back(s.status.binding());
  run_in_every_order({kernel,
                      {shader::gemv_groups(s.second.rows, threads, s.second.lanes_log2), s.tokens},
                      {threads},
                      buffers,
                      {shader::gemv_threadgroup_bytes(threads, s.second.lanes_log2)}},
                     outputs);
}

std::vector<float> cpu_linear(const Packed& packed, const QuantizedRows& codes,
                              const std::vector<float>& rho, std::vector<float> y,
                              OutputMode mode) {
  const int64_t tokens = codes.rows;
  std::vector<float> unread(static_cast<size_t>(tokens * codes.cols));
  const LinearInput in{ConstMatrix(unread.data(), tokens, codes.cols),
                       rho.empty() ? nullptr : rho.data(), &codes};
  ThreadPool pool(1);
  packed.weight->multiply(in, Matrix(y.data(), tokens, packed.view.shape.rows), mode, pool);
  return y;
}

std::span<const uint32_t> bits_of(const std::vector<float>& values) {
  return {reinterpret_cast<const uint32_t*>(values.data()), values.size()};
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
    int64_t rows, columns, rank;
    bool extras;
  };
  for (const Case c : {Case{1, 32, 32, false}, Case{37, 172, 64, true}, Case{100, 288, 96, false},
                       Case{68, 100, 32, true}}) {
    const Packed packed = make_packed(factored(c.rows, c.columns, c.rank, c.extras));
    const std::vector<float> rho = {0.37f, 2.5f};
    const QuantizedRows codes =
        cpu_quantize(make_values(static_cast<size_t>(2 * c.columns), Values::kSpread, 3), 2);
    const std::vector<uint32_t> qvecs = make_qvecs(codes, rho);
    const auto h = random_floats(static_cast<size_t>(2 * c.rows), 12);
    for (const std::string prefix : {"sign_gemv", "select_gemv"}) {
      for (const bool add : {false, true}) {
        TwoStages s = two_stages(packed, qvecs, 2);
        run_first_stage(s, prefix, static_cast<uint32_t>(c.columns));
        const ExactBuffer<float> y(h);
        run_second_stage(s, prefix + (add ? "_add" : "_store"), shader::kGemvThreads, {y.binding()},
                         {6, 7});
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
