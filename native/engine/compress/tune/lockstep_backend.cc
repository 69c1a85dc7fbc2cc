// Row by row where rows have positions.
#include "compress/tune/lockstep_backend.h"

#include "base/check.h"

namespace subbit {

void LockstepBackend::rope(const RopeTable& table, int64_t first_position, int64_t heads,
                           Tensor x) {
  for (int64_t row = 0; row < x.rows; ++row)
    inner_.rope(table, first_position, heads, x.rows_from(row, 1));
}

void LockstepBackend::attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                                const KvLayer& kv, int64_t first_position, Tensor out) {
  CHECK(kv.type == KvType::kF32);
  const int64_t side = shape.kv_heads * kv.capacity * shape.head_dim;
  for (int64_t row = 0; row < q.rows; ++row) {
    KvLayer own = kv;
    own.keys = static_cast<float*>(kv.keys) + row * side;
    own.values = static_cast<float*>(kv.values) + row * side;
    inner_.attention(shape, q.rows_from(row, 1), k.rows_from(row, 1), v.rows_from(row, 1), own,
                     first_position, out.rows_from(row, 1));
  }
}

}  // namespace subbit
