// The product of index bytes with loaded codes: rows are written out as the int8 vectors they name,
// four at a time and a block of columns at a time, and multiplied by every token. Each row is an
// exact int64 sum, rounded once, so kernels, threads and blocks cannot change it.
#pragma once

#include <cstdint>
#include <span>

#include "base/function_ref.h"
#include "base/matrix.h"
#include "base/thread_pool.h"

namespace subbit {

struct TableTask {
  const uint8_t* indices = nullptr;  // signs/index_matrix.h, [rows, vectors]
  const int8_t* table = nullptr;     // [256, width] of -127..127
  int64_t width = 0;                 // 4, 8 or 16
  int64_t rows = 0;
  int64_t vectors = 0;              // ceil(columns / width)
  const int8_t* codes = nullptr;    // first column, token 0; [tokens, code_chunks * 32]
  const uint8_t* shifts = nullptr;  // first chunk, token 0; [tokens, code_chunks]
  int64_t code_chunks = 0;          // chunks of the whole input vector
  int rounding_shift = 0;           // R of table.cc
};

struct TableKernel {
  const char* name = nullptr;
  /// out[r] += sum over chunks of (row r of `weights` . codes) * scale, exact, for 4 rows.
  /// weights [4, chunks * 32] of -127..127, codes [chunks * 32], scales [chunks] powers of two up
  /// to 2^12.
  void (*dot)(const int8_t* weights, const int8_t* codes, const int16_t* scales, int64_t chunks,
              int64_t* out) = nullptr;
};

/// Those this machine can run, fastest first.
std::span<const TableKernel* const> table_kernels();

/// out[t, i] = I of table.cc for every token and row. Columns past the last whole vector of a chunk
/// must have zero codes. `done`: as sign_dot's.
void table_dot(const TableKernel& kernel, const TableTask& task, MatrixView<int32_t> out,
               ThreadPool& pool, FunctionRef<void(Range rows)> done = {});

}  // namespace subbit
