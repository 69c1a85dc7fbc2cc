// Chooses the sign kernel, lays out operands for it and splits rows over the threads.
#include "formats/signs/sign_dot.h"

#include <iterator>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_kernel.h"

namespace subbit {
namespace {

const SignKernel& chosen_kernel() {
  static const SignKernel* const chosen = [] {
    int count = 0;
    const SignKernel* const* kernels = sign_kernels(&count);
    while (!(*kernels)->usable()) ++kernels;  // the portable one, last, always is
    return *kernels;
  }();
  return *chosen;
}

/// Quads a thread claims at a time. Of one token's, 32 KiB of words: no more than a few per cent of
/// a large model's least matrix, so that threads end together. Several tokens pass over the words
/// they claimed again and again, and load their tables the less often the more these are: 64 KiB,
/// which a second-level cache holds. Fours, because some kernels go four quads abreast.
int64_t quads_per_claim(int64_t chunks, int64_t tokens) {
  const int64_t bytes = tokens == 1 ? 32768 : 65536;
  const int64_t quads = bytes / (kUnitBytes * std::max<int64_t>(1, chunks));
  return quads >= 4 ? quads / 4 * 4 : std::max<int64_t>(1, quads);
}

/// Quads of a matrix that has to be written out first, a few at a time while they stay in cache.
void multiply_expanded(const SignKernel& kernel, const SignWords& matrix, const SignTask& task,
                       Range quads, MatrixView<int32_t> out) {
  const int64_t quad_bytes = task.chunks * kUnitBytes;
  const int64_t batch = std::clamp<int64_t>(8192 / quad_bytes, 1, quads.end - quads.begin);
  Buffer<std::byte> units(batch * quad_bytes);
  SignTask part = task;
  part.words = units.data();
  for (int64_t first = quads.begin; first < quads.end; first += batch) {
    part.last_quad = std::min(batch, quads.end - first);
    for (int64_t q = 0; q < part.last_quad; ++q) {
      matrix.expand(matrix, first + q, units.data() + q * quad_bytes);
    }
    part.rows = std::min(part.last_quad * kQuad, task.rows - first * kQuad);
    kernel.multiply(part, out.cols_from(first * kQuad, part.rows));
  }
}

}  // namespace

const SignKernel* const* sign_kernels(int* count) {
#if defined(__x86_64__)
  static const SignKernel* const kernels[] = {&kAvx512SignKernel, &kAvx2SignKernel,
                                              &kPortableSignKernel};
#elif defined(__aarch64__)
  static const SignKernel* const kernels[] = {&kNeonDotSignKernel, &kNeonSignKernel,
                                              &kPortableSignKernel};
#else
  static const SignKernel* const kernels[] = {&kPortableSignKernel};
#endif
  *count = static_cast<int>(std::size(kernels));
  return kernels;
}

const char* sign_dot_kernel_name() { return chosen_kernel().name; }

uint64_t sign_operand_bytes(int64_t rows, int64_t columns) {
  const int64_t chunks = operand_chunks(chunks_of(columns));
  return loaded_codes_bytes(rows, columns) +
         static_cast<uint64_t>(rows * chunks * chosen_kernel().chunk_bytes);
}

void load_sign_operand(const QuantizedRows& in, SignOperand& out, ThreadPool& pool) {
  load_codes(in, in.cols, out.codes, pool);
  const SignKernel& kernel = chosen_kernel();
  const int64_t stride = operand_chunks(in.chunks) * kernel.chunk_bytes;
  uint8_t* const tables = reserve(out.tables, in.rows * stride);
  pool.parallel_for(in.rows, 4, [&](Range range) {
    for (int64_t row = range.begin; row < range.end; ++row)
      kernel.load(out.codes, row, tables + row * stride);
  });
}

void sign_dot(const SignWords& matrix, const SignOperand& operand, MatrixView<int32_t> out,
              ThreadPool& pool) {
  const SignKernel& kernel = chosen_kernel();
  const LoadedCodes& codes = operand.codes;
  const int64_t chunks = chunks_of(matrix.columns);
  CHECK(matrix.first_chunk % 2 == 0 && matrix.first_chunk + chunks <= codes.chunks);
  CHECK(out.rows == codes.rows && out.cols == matrix.rows);

  int32_t few_totals[8];  // decoding allocates nothing
  std::vector<int32_t> many_totals(codes.rows > std::ssize(few_totals) ? codes.rows : 0);
  int32_t* const totals = many_totals.empty() ? few_totals : many_totals.data();
  for (int64_t row = 0; row < codes.rows; ++row) {
    const int32_t* magnitudes = codes.magnitudes.data() + row * codes.chunks + matrix.first_chunk;
    totals[row] = std::accumulate(magnitudes, magnitudes + chunks, 0);
  }
  SignTask task;
  task.words = matrix.words;
  task.chunks = chunks;
  task.rows = matrix.rows;
  task.operand = operand.tables.data();
  task.operand_chunks = operand_chunks(codes.chunks);
  task.first_chunk = matrix.first_chunk;
  task.totals = totals;
  pool.parallel_for(quads_of(matrix.rows), quads_per_claim(chunks, out.rows), [&](Range range) {
    if (matrix.expand != nullptr) {
      multiply_expanded(kernel, matrix, task, range, out);
      return;
    }
    SignTask part = task;
    part.first_quad = range.begin;
    part.last_quad = range.end;
    kernel.multiply(part, out);
  });
}

}  // namespace subbit
