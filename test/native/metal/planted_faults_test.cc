// metal_on_cpu must notice what would go wrong on a GPU: each fault a shader can have is planted
// once, in a real kernel where that is possible, and must be caught.
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/signs/sign_dot.h"
#include "metal/linear.h"
#include "support/metal_linears.h"
#include "support/test.h"

namespace subbit::test {
namespace {

using metal_on_cpu::MetalError;

/// What running the dispatch says; empty when nothing.
std::string complaint(const Dispatch& dispatch) {
  try {
    metal_on_cpu::run(dispatch);
  } catch (const MetalError& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// The sums of one of the planted copies of sign_gemv_sums, in the given order.
std::vector<int32_t> sums_of(const std::string& kernel, const QuantizedRows& codes,
                             const std::vector<std::byte>& signs, uint32_t rows,
                             ThreadOrder order) {
  shader::GemvArgs args{};
  args.rows = rows;
  args.chunks = static_cast<uint32_t>(codes.chunks);
  args.input_chunks = args.chunks;
  args.headroom = static_cast<uint32_t>(headroom_bits(codes.cols));
  args.lanes_log2 = 5;
  args.pair_quads = 1;
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = rows;
  const ExactBuffer<std::byte> words(signs);
  const ExactBuffer<uint32_t> qvecs(make_qvecs(codes, {}));
  const ExactBuffer<int32_t> sums(rows);
  const ExactBuffer<int32_t> exponents(1);
  metal_on_cpu::run({kernel,
                     {shader::gemv_groups(rows, shader::kGemvThreads, 5)},
                     {shader::kGemvThreads},
                     {bytes_of(args), bytes_of(epilogue), words.binding(), qvecs.binding(),
                      sums.binding(), exponents.binding()},
                     {shader::gemv_threadgroup_bytes(shader::kGemvThreads, 5)},
                     order});
  return sums.values();
}

/// In how many of the three orders the copy differs from the kernel it was made from.
int wrong_orders(const std::string& prefix, uint32_t columns) {
  const uint32_t rows = 64;
  std::vector<std::byte> signs;
  pack_signs(random_signs(rows, columns, 1), signs);
  const QuantizedRows codes = cpu_quantize(make_values(columns, Values::kSpread, 2), 1);
  int wrong = 0;
  for (const ThreadOrder order : kThreadOrders) {
    const auto right = sums_of("sign_gemv_sums", codes, signs, rows, order);
    try {
      if (sums_of(prefix + "sign_gemv_sums", codes, signs, rows, order) != right) ++wrong;
    } catch (const MetalError&) {  // where accesses are traced
      ++wrong;
    }
  }
  return wrong;
}

/// Whether `body` ends its process by a signal or an error, in a child that may die.
template <typename Body>
bool dies(Body body) {
  fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    if (freopen("/dev/null", "w", stderr) == nullptr) _exit(0);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
}

struct Floats {
  ExactBuffer<float> x{std::vector<float>(64, 1.0f)};
  ExactBuffer<float> y{64};
  Dispatch dispatch(const std::string& kernel, const std::vector<size_t>& memory = {}) const {
    return {kernel, {}, {64}, {x.binding(), y.binding()}, memory};
  }
};

}  // namespace

TEST(metal_on_cpu_runs_a_kernel_without_faults) {
  const Floats f;
  EXPECT_EQ(complaint(f.dispatch("planted_none", {16})), std::string());
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(f.y[i], 64.0f);
}

TEST(metal_on_cpu_notices_a_deleted_barrier) {
  // In order, simdgroup 0 reads rows that the others have yet to write.
  EXPECT(wrong_orders("deleted_barrier_", 100) >= 1);
}

TEST(metal_on_cpu_notices_a_wrong_pad) {
  EXPECT_EQ(wrong_orders("wrong_pad_", 128), 0);  // whole units of four: no padding to get wrong
  std::vector<std::byte> signs;
  pack_signs(random_signs(8, 160, 1), signs);
  std::vector<float> x = random_floats(160, 2);
  x[159] = 1000.0f;  // the largest exponent stands in the padding's unit
  const QuantizedRows codes = cpu_quantize(x, 1);
  EXPECT(sums_of("wrong_pad_sign_gemv_sums", codes, signs, 8, ThreadOrder::kForward) !=
         sums_of("sign_gemv_sums", codes, signs, 8, ThreadOrder::kForward));
}

TEST(metal_on_cpu_names_the_line_of_a_divergence) {
  const Floats f;
  const std::string simd = complaint(f.dispatch("planted_divergent_simd_operation"));
  EXPECT(has(simd, "planted_divergent_simd_operation: threads diverge") && has(simd, "simd_sum") &&
         has(simd, "small_faults.cc:") && has(simd, "has returned"));
  const std::string barrier = complaint(f.dispatch("planted_divergent_barrier"));
  EXPECT(has(barrier, "threads diverge") && has(barrier, "threadgroup_barrier"));
  const std::string two = complaint(f.dispatch("planted_two_operations"));
  EXPECT(has(two, "simd_sum") && has(two, "simd_max"));
}

TEST(metal_on_cpu_dies_of_a_read_past_the_end) {
  const Floats f;
  EXPECT(!dies([&] { metal_on_cpu::run(f.dispatch("planted_none", {16})); }));
  EXPECT(dies([&] { metal_on_cpu::run(f.dispatch("planted_read_past_the_end")); }));
  // And a real kernel, given a matrix one unit too short.
  std::vector<std::byte> signs;
  pack_signs(random_signs(64, 100, 1), signs);
  const QuantizedRows codes = cpu_quantize(random_floats(100, 2), 1);
  signs.resize(signs.size() - 16);
  EXPECT(dies([&] { sums_of("sign_gemv_sums", codes, signs, 64, ThreadOrder::kForward); }));
}

TEST(metal_on_cpu_poisons_threadgroup_memory) {
  const ExactBuffer<float> y(64);
  const Dispatch dispatch{"planted_unwritten_memory", {}, {64}, {y.binding()}, {48}};
  metal_on_cpu::run(dispatch);
  EXPECT_EQ(y[7], 1.0f);
  EXPECT(std::isnan(y[8]));
}

TEST(metal_on_cpu_refuses_what_metal_refuses) {
  const Floats f;
  Dispatch d = f.dispatch("planted_none", {16});
  d.threads = {2048};
  EXPECT(has(complaint(d), "2048 threads"));
  d.threads = {40};
  EXPECT(has(complaint(d), "40 threads"));
  d = f.dispatch("planted_none", {20});
  EXPECT(has(complaint(d), "multiple of 16"));
  d = f.dispatch("planted_none", {65536});
  EXPECT(has(complaint(d), "65536 bytes"));
  d = f.dispatch("planted_none");
  EXPECT(has(complaint(d), "no length for threadgroup memory 0"));
  d = f.dispatch("planted_none", {16});
  d.buffers[1] = {};
  EXPECT(has(complaint(d), "buffer 1 (y) is not bound"));
  d.buffers[1] = {f.y.data() + 1, 4};
  d.buffers[1].data = reinterpret_cast<std::byte*>(f.y.data()) + 2;
  EXPECT(has(complaint(d), "not aligned"));
  EXPECT(has(complaint(f.dispatch("planted_nowhere")), "no kernel named"));
  Dispatch short_arguments{
      "argmax", {}, {256}, {f.x.binding(), f.x.binding(), f.y.binding(), f.y.binding()}, {64}};
  short_arguments.buffers[0].bytes = 2;
  EXPECT(has(complaint(short_arguments), "holds 2 bytes, ArgmaxArgs takes 4"));
}

TEST(metal_kernels_can_all_be_read) {
  for (const std::string& name : metal_on_cpu::kernel_names()) {
    const auto& arguments = metal_on_cpu::arguments_of(name);
    EXPECT(arguments.size() > 4);
    uint32_t buffers = 0;
    for (const auto& argument : arguments) {
      if (argument.attribute == "buffer") buffers = std::max(buffers, argument.index + 1);
    }
    EXPECT(buffers <= 31);  // Metal's limit
  }
}

}  // namespace subbit::test
