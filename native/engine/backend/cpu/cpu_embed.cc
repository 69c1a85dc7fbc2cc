// embed: rows of the embedding table, through the format's own definition of its weights.
#include "backend/cpu/cpu_operations.h"
#include "base/check.h"

namespace subbit {

void cpu_embed(const Weight& table, std::span<const int32_t> tokens, Tensor h, ThreadPool& pool) {
  CHECK(h.rows == std::ssize(tokens) && h.cols == table.shape().cols);
  CHECK(h.row_scale == nullptr);
  for (const int32_t token : tokens) CHECK(token >= 0 && token < table.shape().rows);
  pool.parallel_for(h.rows, 8, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t)
      table.unpack_rows(tokens[static_cast<size_t>(t)], h.matrix().rows_from(t, 1));
  });
}

}  // namespace subbit
