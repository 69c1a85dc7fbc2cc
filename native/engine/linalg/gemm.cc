// The loops around the micro-kernel (Goto and van de Geijn 2008): C is cut into strips of columns
// whose packed right operand stays in a core's second-level cache, strips into tiles that stay in
// registers. Every thread packs what it multiplies, though another may have packed the same: cells
// that another core has written cost more to fetch than to pack again. No element's order of
// operations depends on any size chosen here except kGemmDepth, which is part of the contract.
#include "linalg/gemm.h"

#include <algorithm>
#include <vector>

#include "base/buffer.h"
#include "base/check.h"
#include "base/processor.h"
#include "linalg/gemm_kernel.h"

namespace subbit {
namespace {

// Packed strip: 256 x 256 floats, 256 KB of a core's second-level cache.
constexpr int64_t kStripColumns = 256;
// A piece of work below about 5 us is not worth handing to another thread.
constexpr int64_t kTileWork = 1 << 18;  // multiply-adds

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// [0, total) in `parts` runs whose lengths differ by at most one.
struct EvenSplit {
  int64_t total = 0;
  int64_t parts = 1;
  int64_t begin(int64_t part) const { return part * total / parts; }
  int64_t size(int64_t part) const { return begin(part + 1) - begin(part); }
};

/// Floats of scratch that live as long as their thread: packing afresh would page-fault each time.
/// At most kStripColumns columns of kGemmDepth cells: 256 KB.
float* scratch_floats(int64_t count) {
  thread_local Buffer<float> scratch;
  if (scratch.size() < count) {
    const ArenaScope on_the_heap(nullptr);  // it outlives whatever arena is in use now
    scratch = Buffer<float>(count);
  }
  return scratch.data();
}

/// All of C and kGemmDepth cells of its operands.
struct Slab {
  const GemmKernel& kernel;
  const GemmOperand& a;
  const GemmOperand& b;
  Matrix c;
  int64_t first_depth = 0;
  int64_t depth = 0;  // values along k
  Accumulate accumulate = Accumulate::kOverwrite;

  int64_t cells() const { return kernel.cells(depth); }

  // Equal heights, not full tiles and a rest: 16 rows on a 14-row kernel are 8 + 8.
  EvenSplit row_panels() const { return {c.rows, ceil_div(c.rows, kernel.rows)}; }
  int64_t column_panels() const { return ceil_div(c.cols, kernel.width()); }
  int64_t panel_columns(int64_t j) const {
    return std::min<int64_t>(kernel.width(), c.cols - j * kernel.width());
  }
  int64_t panel_vectors(int64_t j) const { return ceil_div(panel_columns(j), kernel.lanes); }

  void pack_left(int64_t i, float* panel) const;
  void pack_right(int64_t j, float* panel) const;
  void multiply_tile(int64_t i, const float* left, int64_t j, const float* right) const;
};

void Slab::pack_left(int64_t i, float* panel) const {
  const EvenSplit rows = row_panels();
  const auto lines = a.transpose == Transpose::kNo ? GemmBlock::LinesAre::kStoredRows
                                                   : GemmBlock::LinesAre::kStoredColumns;
  kernel.pack({&a, lines, rows.begin(i), rows.size(i), first_depth, depth},
              gemm_pitch(rows.size(i)), panel);
}

void Slab::pack_right(int64_t j, float* panel) const {
  const auto lines = b.transpose == Transpose::kNo ? GemmBlock::LinesAre::kStoredColumns
                                                   : GemmBlock::LinesAre::kStoredRows;
  kernel.pack({&b, lines, j * kernel.width(), panel_columns(j), first_depth, depth},
              panel_vectors(j) * kernel.lanes, panel);
}

void Slab::multiply_tile(int64_t i, const float* left, int64_t j, const float* right) const {
  const EvenSplit split = row_panels();
  const int64_t rows = split.size(i);
  const int64_t columns = panel_columns(j);
  const int64_t vectors = panel_vectors(j);
  const GemmKernel::Run run = kernel.run[rows - 1][vectors - 1];
  float* target = c.row(split.begin(i)) + j * kernel.width();
  if (columns == vectors * kernel.lanes) {
    run({left, right, target, c.stride, cells(), accumulate});
    return;
  }
  // The tile hangs over the edge of C: computed aside, then copied, with the same one addition.
  constexpr int64_t kWidest = 48;
  float aside[GemmKernel::kMaxRows * kWidest];
  CHECK(kernel.width() <= kWidest);
  run({left, right, aside, kWidest, cells(), Accumulate::kOverwrite});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < columns; ++k) {
      float& element = target[r * c.stride + k];
      const float sum = aside[r * kWidest + k];
      element = accumulate == Accumulate::kAdd ? element + sum : sum;
    }
  }
}

void multiply_slab(const Slab& slab, ThreadPool& pool) {
  const int64_t row_panels = slab.row_panels().parts;
  const int64_t column_panels = slab.column_panels();
  // Wide strips reuse a left panel; with few of those, narrower strips keep all threads busy.
  const int64_t wanted_tasks = pool.threads() > 1 ? int64_t{pool.threads()} * 4 : 1;
  const EvenSplit strips{column_panels,
                         std::min(column_panels, std::max(ceil_div(slab.c.cols, kStripColumns),
                                                          ceil_div(wanted_tasks, row_panels)))};
  const int64_t tasks = strips.parts * row_panels;
  const int64_t task_work = ceil_div(slab.c.rows * slab.c.cols * slab.cells(), tasks);
  const int64_t panel_floats = slab.kernel.width() * slab.cells();
  const int64_t widest = ceil_div(column_panels, strips.parts);
  // Tasks are claimed in order, so a worker meets each strip once.
  std::vector<int64_t> packed(static_cast<size_t>(pool.threads()), -1);
  pool.parallel_for(tasks, std::max<int64_t>(1, kTileWork / task_work), [&](Range range) {
    alignas(64) float left[kGemmDepth * gemm_pitch(GemmKernel::kMaxRows)];
    float* strip = scratch_floats(widest * panel_floats);
    int64_t& holds = packed[static_cast<size_t>(range.worker)];
    for (int64_t task = range.begin; task < range.end; ++task) {
      const int64_t s = task / row_panels;
      const int64_t i = task % row_panels;
      const int64_t first = strips.begin(s);
      if (holds != s) {
        for (int64_t j = 0; j < strips.size(s); ++j)
          slab.pack_right(first + j, strip + j * panel_floats);
        holds = s;
      }
      slab.pack_left(i, left);
      for (int64_t j = 0; j < strips.size(s); ++j)
        slab.multiply_tile(i, left, first + j, strip + j * panel_floats);
    }
  });
}

void check_shapes(const GemmOperand& a, const GemmOperand& b, Matrix c) {
  CHECK(a.op_rows() == c.rows);
  CHECK(b.op_cols() == c.cols);
  CHECK(a.op_cols() == b.op_rows());
  CHECK(a.rows >= 0 && a.cols >= 0 && b.rows >= 0 && b.cols >= 0);
  CHECK(a.stride >= a.cols && b.stride >= b.cols && c.stride >= c.cols);
}

void fill_zeros(Matrix c) {
  for (int64_t i = 0; i < c.rows; ++i) std::fill_n(c.row(i), c.cols, 0.0f);
}

}  // namespace

void gemm_on(const GemmKernel& kernel, const GemmOperand& a, const GemmOperand& b, Matrix c,
             Accumulate accumulate, ThreadPool& pool) {
  check_shapes(a, b, c);
  constexpr auto kPairs = GemmOperand::Type::kBF16;
  CHECK(kernel.cell == GemmKernel::Cell::kFloat || (a.type == kPairs && b.type == kPairs));
  const int64_t depth = a.op_cols();
  if (c.rows == 0 || c.cols == 0) return;
  if (depth == 0) {
    if (accumulate == Accumulate::kOverwrite) fill_zeros(c);
    return;
  }
  const int64_t block_depth = kGemmDepth * kernel.cell_values();
  for (int64_t k = 0; k < depth; k += block_depth) {
    const auto mode = k == 0 ? accumulate : Accumulate::kAdd;
    multiply_slab({kernel, a, b, c, k, std::min(block_depth, depth - k), mode}, pool);
  }
}

std::span<const GemmKernel* const> gemm_kernels() {
  struct Kernels {
    const GemmKernel* list[3];
    size_t count = 0;
  };
  static const Kernels kernels = [] {
    Kernels found;
#if defined(__x86_64__)
#if !defined(__APPLE__)
    if (has_avx512()) found.list[found.count++] = &gemm_kernel_avx512();
#endif
    if (has_avx2()) found.list[found.count++] = &gemm_kernel_avx2();
#elif defined(__aarch64__)
    found.list[found.count++] = &gemm_kernel_neon();
#endif
    found.list[found.count++] = &gemm_kernel_portable();
    return found;
  }();
  return {kernels.list, kernels.count};
}

const GemmKernel* gemm_bfloat16_kernel() {
#if defined(__x86_64__) && !defined(__APPLE__)
  if (has_avx512_bf16()) return &gemm_kernel_avx512_bf16();
#endif
  return nullptr;
}

#if defined(__APPLE__)

void gemm(const GemmOperand& a, const GemmOperand& b, Matrix c, Accumulate accumulate,
          ThreadPool&) {
  check_shapes(a, b, c);
  if (c.rows == 0 || c.cols == 0) return;
  if (a.op_cols() == 0) {
    if (accumulate == Accumulate::kOverwrite) fill_zeros(c);
    return;
  }
  gemm_accelerate(a, b, c, accumulate);
}

const char* gemm_kernel_name() { return "accelerate"; }
const char* gemm_bfloat16_kernel_name() { return "accelerate"; }

#else

void gemm(const GemmOperand& a, const GemmOperand& b, Matrix c, Accumulate accumulate,
          ThreadPool& pool) {
  constexpr auto kPairs = GemmOperand::Type::kBF16;
  const GemmKernel* pairs = a.type == kPairs && b.type == kPairs ? gemm_bfloat16_kernel() : nullptr;
  gemm_on(pairs != nullptr ? *pairs : *gemm_kernels().front(), a, b, c, accumulate, pool);
}

const char* gemm_kernel_name() { return gemm_kernels().front()->name; }
const char* gemm_bfloat16_kernel_name() {
  const GemmKernel* pairs = gemm_bfloat16_kernel();
  return pairs != nullptr ? pairs->name : gemm_kernel_name();
}

#endif

}  // namespace subbit
