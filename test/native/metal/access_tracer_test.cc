// The race detector on its own, fed by hand; and, in the build where the compiler reports every
// access (npm run test:metal), on kernels with planted races, in every thread order.
#include "support/metal_on_cpu/access_tracer.h"

#include "formats/signs/loaded_codes.h"
#include "metal/linear.h"
#include "support/metal_linears.h"
#include "support/test.h"

namespace subbit::test {

#if defined(SUBBIT_TRACE_ACCESSES)

namespace {

std::string complaint(const Dispatch& dispatch) {
  try {
    metal_on_cpu::run(dispatch);
  } catch (const metal_on_cpu::MetalError& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// What a planted kernel of one float buffer is told in each order.
void expect_race(const std::string& kernel, Size3 grid, bool expected) {
  for (const ThreadOrder order : kThreadOrders) {
    const ExactBuffer<float> y(64);
    const std::string said = complaint({kernel, grid, {64}, {y.binding()}, {}, order});
    EXPECT_EQ(has(said, "race on y"), expected);
    if (!expected) EXPECT_EQ(said, std::string());
  }
}

}  // namespace

TEST(metal_tracing_finds_planted_races_in_every_order) {
  expect_race("planted_race_on_one_word", {1}, true);
  expect_race("planted_race_between_threadgroups", {2}, true);
  expect_race("planted_race_between_threadgroups", {1}, false);
  expect_race("planted_barrier_of_the_wrong_memory", {1}, true);
  expect_race("planted_barrier_of_the_right_memory", {1}, false);
}

TEST(metal_tracing_finds_a_deleted_barrier_in_every_order) {
  shader::GemvArgs args{};
  args.rows = 32;
  args.chunks = args.input_chunks = 4;
  args.headroom = static_cast<uint32_t>(headroom_bits(100));
  args.lanes_log2 = 5;
  args.pair_quads = 1;
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = 32;
  std::vector<std::byte> signs;
  pack_signs(random_signs(32, 100, 1), signs);
  const ExactBuffer<std::byte> words(signs);
  const ExactBuffer<uint32_t> qvecs(make_qvecs(cpu_quantize(random_floats(100, 2), 1), {}));
  const ExactBuffer<int32_t> sums(32);
  const ExactBuffer<int32_t> exponents(1);
  for (const ThreadOrder order : kThreadOrders) {
    Dispatch d{"deleted_barrier_sign_gemv_sums",
               {1},
               {shader::kGemvThreads},
               {bytes_of(args), bytes_of(epilogue), words.binding(), qvecs.binding(),
                sums.binding(), exponents.binding()},
               {shader::gemv_threadgroup_bytes(shader::kGemvThreads, 5)},
               order};
    EXPECT(has(complaint(d), "race on integers"));
    d.kernel = "sign_gemv_sums";
    EXPECT_EQ(complaint(d), std::string());
  }
}

TEST(metal_words_are_loaded_once_for_a_token_and_once_for_four) {
  const uint32_t rows = 64;
  const uint32_t columns = 1024;
  std::vector<std::byte> signs;
  pack_signs(random_signs(rows, columns, 1), signs);
  const ExactBuffer<std::byte> words(signs);
  const ExactBuffer<uint32_t> qvecs(make_qvecs(cpu_quantize(random_floats(4 * columns, 2), 4), {}));
  const ExactBuffer<int32_t> sums(4 * rows);
  const ExactBuffer<int32_t> exponents(4);
  shader::GemvArgs args{};
  args.rows = rows;
  args.chunks = args.input_chunks = columns / 32;
  args.headroom = static_cast<uint32_t>(headroom_bits(columns));
  args.lanes_log2 = 5;
  args.pair_quads = 1;
  args.tokens = 4;
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = rows;
  for (const std::string kernel : {"sign_gemv_sums", "sign_columns_sums"}) {
    for (const uint32_t tokens : {1u, 4u}) {
      Dispatch dispatch = gemv_dispatch(kernel, args, shader::kGemvThreads, tokens);
      dispatch.buffers = {bytes_of(args),  bytes_of(epilogue), words.binding(),
                          qvecs.binding(), sums.binding(),     exponents.binding()};
      const auto counts = metal_on_cpu::run_counted(dispatch);
      const uint64_t times = kernel == "sign_gemv_sums" ? tokens : 1;
      EXPECT_EQ(counts.traffic[0].name, std::string("words"));
      EXPECT_EQ(counts.traffic[0].bytes_loaded, times * signs.size());
      EXPECT_EQ(counts.barriers, counts.threadgroups);
    }
  }
}

TEST(metal_tracing_counts_the_bytes_of_each_buffer) {
  const ExactBuffer<float> x(std::vector<float>(64, 1.0f));
  const ExactBuffer<float> y(64);
  const auto counts =
      metal_on_cpu::run_counted({"planted_none", {}, {64}, {x.binding(), y.binding()}, {16}});
  EXPECT_EQ(counts.traffic.size(), size_t{3});
  EXPECT_EQ(counts.traffic[0].name, std::string("x"));
  EXPECT_EQ(counts.traffic[0].bytes_loaded, 256u);
  EXPECT_EQ(counts.traffic[1].bytes_stored, 256u);
  EXPECT_EQ(counts.barriers, 1u);
  EXPECT_EQ(counts.simd_operations, 2u);
}

#else

TEST(metal_on_cpu_counts_barriers_and_simd_operations) {
  const ExactBuffer<float> x(std::vector<float>(64, 1.0f));
  const ExactBuffer<float> y(64);
  const auto counts =
      metal_on_cpu::run_counted({"planted_none", {3}, {64}, {x.binding(), y.binding()}, {16}});
  EXPECT(!metal_on_cpu::accesses_are_traced());
  EXPECT_EQ(counts.threadgroups, 3u);
  EXPECT_EQ(counts.threads, 192u);
  EXPECT_EQ(counts.barriers, 3u);
  EXPECT_EQ(counts.simd_operations, 6u);
}

#endif

}  // namespace subbit::test
