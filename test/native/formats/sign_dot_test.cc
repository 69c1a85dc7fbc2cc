// Every sign kernel this machine can run, against the definition: exact, for any thread count.
#include "formats/signs/sign_dot.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/rng.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_kernel.h"
#include "formats/signs/sign_matrix.h"
#include "support/test.h"

#if defined(SUBBIT_CBLAS)
// Compiled here and not in the engine, which has no CBLAS to link outside Macs.
#include "formats/signs/sign_kernels_accelerate.cc"  // NOLINT
#endif

namespace subbit {
namespace {

SignMatrix random_signs(int64_t rows, int64_t cols, uint64_t seed) {
  Rng rng(seed);
  SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  for (uint8_t& bit : signs.bits) bit = rng.next() & 1;
  return signs;
}

/// Codes as a model makes them, or all at their largest, in every chunk shift.
enum class Codes { kRandom, kLargest, kSpread };

QuantizedRows make_codes(int64_t tokens, int64_t cols, Codes kind, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(tokens * cols));
  for (int64_t i = 0; i < tokens * cols; ++i) {
    const int64_t chunk = i % cols / kChunk;
    float value = kind == Codes::kRandom ? rng.normal() : (rng.next() & 1 ? 127.0f : -127.0f);
    if (kind == Codes::kSpread) value = std::ldexp(value, -static_cast<int>(chunk % 21));
    values[static_cast<size_t>(i)] = value;
  }
  ThreadPool pool(1);
  QuantizedRows out;
  quantize_rows(ConstMatrix(values.data(), tokens, cols), out, pool);
  return out;
}

/// I of one row, literally: sign times code times 2^shift, in 64-bit.
int64_t reference(const SignMatrix& signs, int64_t row, const LoadedCodes& codes, int64_t token,
                  int64_t first_chunk) {
  int64_t sum = 0;
  for (int64_t j = 0; j < signs.cols; ++j) {
    const int64_t column = first_chunk * kChunk + j;
    const int64_t chunk = token * codes.chunks + column / kChunk;
    const int64_t sign = signs.bits[static_cast<size_t>(row * signs.cols + j)] ? 1 : -1;
    const int64_t code = codes.codes[token * codes.chunks * kChunk + column];
    sum += sign * code * (int64_t{1} << codes.shifts[chunk]);
  }
  return sum;
}

/// Runs one kernel over the whole matrix, laid out in a buffer of exactly its size.
void expect_kernel_exact(const SignKernel& kernel, const SignMatrix& signs,
                         const QuantizedRows& rows) {
  std::vector<std::byte> words;
  pack_signs(signs, words);
  ThreadPool pool(1);
  LoadedCodes codes;
  load_codes(rows, rows.cols, codes, pool);
  const int64_t stride = operand_chunks(rows.chunks) * kernel.chunk_bytes;
  std::vector<uint8_t> tables(static_cast<size_t>(rows.rows * stride), 0xAA);
  std::vector<int32_t> totals(static_cast<size_t>(rows.rows));
  for (int64_t t = 0; t < rows.rows; ++t) {
    kernel.load(codes, t, tables.data() + t * stride);
    for (int64_t c = 0; c < codes.chunks; ++c) totals[t] += codes.magnitudes[t * codes.chunks + c];
  }
  std::vector<int32_t> sums(static_cast<size_t>(rows.rows * signs.rows), -1);
  SignTask task;
  task.words = words.data();
  task.chunks = rows.chunks;
  task.rows = signs.rows;
  task.last_quad = quads_of(signs.rows);
  task.operand = tables.data();
  task.operand_chunks = operand_chunks(rows.chunks);
  task.totals = totals.data();
  kernel.multiply(task, {sums.data(), rows.rows, signs.rows});
  for (int64_t t = 0; t < rows.rows; ++t) {
    for (int64_t i = 0; i < signs.rows; ++i) {
      const int64_t expected = reference(signs, i, codes, t, 0);
      EXPECT(std::abs(expected) < (int64_t{1} << 30));
      EXPECT_EQ(int64_t{sums[static_cast<size_t>(t * signs.rows + i)]}, expected);
    }
  }
}

std::vector<const SignKernel*> kernels_here() {
  int count = 0;
  const SignKernel* const* kernels = sign_kernels(&count);
  std::vector<const SignKernel*> here(kernels, kernels + count);
#if defined(SUBBIT_CBLAS)
  here.push_back(&kAccelerateSignKernel);
#endif
  std::erase_if(here, [](const SignKernel* kernel) { return !kernel->usable(); });
  return here;
}

TEST(every_sign_kernel_is_exact_on_awkward_shapes) {
  for (const SignKernel* kernel : kernels_here()) {
    uint64_t seed = 1;
    for (const int64_t cols : {1, 31, 32, 33, 64, 65, 172, 288}) {
      for (const int64_t rows : {1, 3, 4, 5, 33}) {
        for (const int64_t tokens : {1, 3, 4, 5, 33}) {
          if (tokens == 33 && cols != 172) continue;  // more than a kernel packs at a time
          ++seed;
          expect_kernel_exact(*kernel, random_signs(rows, cols, seed),
                              make_codes(tokens, cols, Codes::kRandom, seed));
        }
      }
    }
  }
}

TEST(every_sign_kernel_survives_the_largest_codes_and_the_widest_rows) {
  for (const SignKernel* kernel : kernels_here()) {
    for (const int64_t cols : {4096, 11008}) {
      expect_kernel_exact(*kernel, random_signs(5, cols, 3),
                          make_codes(2, cols, Codes::kLargest, 4));
      SignMatrix all_positive = random_signs(4, cols, 3);
      for (uint8_t& bit : all_positive.bits) bit = 1;
      expect_kernel_exact(*kernel, all_positive, make_codes(1, cols, Codes::kLargest, 5));
    }
    expect_kernel_exact(*kernel, random_signs(7, 800, 5), make_codes(1, 800, Codes::kSpread, 6));
  }
}

TEST(sign_dot_gives_the_same_sums_for_any_number_of_threads) {
  const SignMatrix signs = random_signs(1001, 300, 11);
  std::vector<std::byte> words;
  pack_signs(signs, words);
  for (const int64_t tokens : {1, 3, 9, 45}) {  // threads share out many tokens too
    // Random ones, whose totals differ from token to token.
    const auto codes = make_codes(tokens, 300, tokens == 3 ? Codes::kSpread : Codes::kRandom, 12);
    SignOperand operand;
    std::vector<int32_t> first;
    for (const int threads : {1, 2, 5, kMostCopies + 1}) {
      ThreadPool pool(threads);
      load_sign_operand(codes, operand, pool);
      std::vector<int32_t> sums(static_cast<size_t>(tokens * 1001), -1);
      sign_dot({words.data(), 1001, 300, 0}, operand, {sums.data(), tokens, 1001}, pool);
      if (first.empty()) first = sums;
      EXPECT(sums == first);
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (const int64_t i : {0, 4, 999, 1000})
        EXPECT_EQ(int64_t{first[static_cast<size_t>(t * 1001 + i)]},
                  reference(signs, i, codes_for(operand, 0), t, 0));
  }
}

TEST(sign_dot_says_once_of_every_row_that_its_sum_is_there) {
  // What finishes a linear reads the sums at once, on the thread that made them.
  const int64_t rows = 1001;
  std::vector<std::byte> words;
  pack_signs(random_signs(rows, 300, 13), words);
  const auto codes = make_codes(1, 300, Codes::kRandom, 14);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    SignOperand operand;
    load_sign_operand(codes, operand, pool);
    std::vector<int32_t> sums(static_cast<size_t>(rows), -1);
    std::vector<int32_t> seen(sums);
    std::vector<std::atomic<int>> calls(static_cast<size_t>(rows));
    std::atomic<bool> aligned{true};
    sign_dot({words.data(), rows, 300, 0}, operand, {sums.data(), 1, rows}, pool, [&](Range run) {
      if (run.begin % kChunk != 0 || (run.end % kChunk != 0 && run.end != rows)) aligned = false;
      for (int64_t i = run.begin; i < run.end; ++i) {
        seen[static_cast<size_t>(i)] = sums[static_cast<size_t>(i)];
        ++calls[static_cast<size_t>(i)];
      }
    });
    EXPECT(aligned);
    EXPECT(seen == sums);
    EXPECT(std::all_of(calls.begin(), calls.end(), [](const auto& n) { return n == 1; }));
  }
}

TEST(an_operand_loaded_again_forgets_the_codes_before) {
  // Threads keep copies, and must see that theirs are old; also when the codes get longer.
  ThreadPool pool(2);
  SignOperand operand;
  for (const int64_t cols : {64, 64, 512, 96}) {
    const SignMatrix signs = random_signs(300, cols, 15);
    std::vector<std::byte> words;
    pack_signs(signs, words);
    static uint64_t seed = 16;
    const auto codes = make_codes(1, cols, Codes::kRandom, ++seed);
    load_sign_operand(codes, operand, pool);
    std::vector<int32_t> sums(300, -1);
    sign_dot({words.data(), 300, cols, 0}, operand, {sums.data(), 1, 300}, pool);
    for (int64_t i = 0; i < 300; ++i)
      EXPECT_EQ(int64_t{sums[static_cast<size_t>(i)]},
                reference(signs, i, codes_for(operand, 0), 0, 0));
  }
}

TEST(prompts_are_multiplied_by_the_kernel_that_somebody_chose) {
  const std::vector<std::string_view> names = prompt_kernels();
  EXPECT_EQ(std::string(names.front()), std::string(sign_dot_kernel_name()));
  for (const std::string_view name : names) {
    EXPECT(choose_prompt_kernel(name));
    EXPECT_EQ(std::string(prompt_kernel_name()), std::string(name));
    ThreadPool pool(1);
    SignOperand operand;
    load_sign_operand(make_codes(2, 64, Codes::kRandom, 41), operand, pool);
    EXPECT_EQ(std::string(operand.kernel->name), std::string(name));
    load_sign_operand(make_codes(1, 64, Codes::kRandom, 41), operand, pool);
    EXPECT_EQ(std::string(operand.kernel->name), std::string(sign_dot_kernel_name()));
  }
  EXPECT(!choose_prompt_kernel("abacus"));
  EXPECT_EQ(std::string(prompt_kernel_name()), std::string(names.back()));  // as before
  EXPECT(choose_prompt_kernel(""));
  EXPECT(std::find(names.begin(), names.end(), prompt_kernel_name()) != names.end());
}

TEST(a_matrix_over_a_run_of_columns_sees_only_those_columns) {
  ThreadPool pool(1);
  for (const int64_t columns : {64, 96}) {  // 96 ends in the middle of a chunk pair
    const SignMatrix signs = random_signs(6, columns, 21);
    std::vector<std::byte> words;
    pack_signs(signs, words);
    SignOperand operand;
    load_sign_operand(make_codes(5, 256, Codes::kRandom, 22), operand, pool);
    std::vector<int32_t> sums(5 * 6);
    sign_dot({words.data(), 6, columns, 2}, operand, {sums.data(), 5, 6}, pool);
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t i = 0; i < 6; ++i) {
        EXPECT_EQ(int64_t{sums[static_cast<size_t>(t * 6 + i)]},
                  reference(signs, i, operand.codes, t, 2));
      }
    }
  }
}

TEST(signs_lie_where_the_layout_says) {
  SignMatrix signs{5, 40, std::vector<uint8_t>(200)};
  signs.bits[4 * 40 + 33] = 1;  // row 4: second quad; column 33: word 1, bit 1
  std::vector<std::byte> words;
  pack_signs(signs, words);
  EXPECT_EQ(words.size(), size_t{64});
  for (size_t i = 0; i < words.size(); ++i) EXPECT_EQ(int(words[i]), i == 16 * 3 ? 2 : 0);
  EXPECT_EQ(unpack_sign(words, 4, 33, 40), 1);
  EXPECT_EQ(unpack_sign(words, 4, 32, 40), -1);
}

TEST(a_padding_bit_that_is_set_is_refused) {
  std::vector<std::byte> words;
  pack_signs(random_signs(5, 40, 1), words);
  check_sign_padding(words, 5, 40, "t");
  auto wide = words;
  wide[16 + 1] |= std::byte{1};  // row 0, word 1, bit 8 = column 40
  EXPECT_ERROR(ErrorCode::kCorruptFile, "padding", check_sign_padding(wide, 5, 40, "t"));
  auto tall = words;
  tall[32 + 4] |= std::byte{1};  // row 5
  EXPECT_ERROR(ErrorCode::kCorruptFile, "padding", check_sign_padding(tall, 5, 40, "t"));
}

}  // namespace
}  // namespace subbit
