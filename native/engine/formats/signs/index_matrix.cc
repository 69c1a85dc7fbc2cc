// Packing and checking of index bytes.
#include "formats/signs/index_matrix.h"

#include <string>

#include "base/check.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

int64_t words_of(int64_t vectors) { return (vectors + kWordIndices - 1) / kWordIndices; }

}  // namespace

uint64_t index_bytes(int64_t rows, int64_t vectors) {
  return static_cast<uint64_t>(kUnitBytes) * static_cast<uint64_t>(quads_of(rows)) *
         static_cast<uint64_t>(words_of(vectors));
}

int64_t index_offset(int64_t row, int64_t vector, int64_t vectors) {
  return 4 * sign_word_index(row, vector / kWordIndices, words_of(vectors)) + vector % kWordIndices;
}

void pack_indices(const IndexMatrix& indices, std::vector<std::byte>& out) {
  CHECK(static_cast<int64_t>(indices.values.size()) == indices.rows * indices.cols);
  const size_t begin = out.size();
  out.resize(begin + index_bytes(indices.rows, indices.cols));
  for (int64_t i = 0; i < indices.rows; ++i) {
    for (int64_t v = 0; v < indices.cols; ++v) {
      out[begin + static_cast<size_t>(index_offset(i, v, indices.cols))] =
          std::byte{indices.values[static_cast<size_t>(i * indices.cols + v)]};
    }
  }
}

void check_index_padding(std::span<const std::byte> words, int64_t rows, int64_t vectors,
                         std::string_view where) {
  const int64_t padded_vectors = words_of(vectors) * kWordIndices;
  for (int64_t row = 0; row < quads_of(rows) * kQuad; ++row) {
    for (int64_t v = row < rows ? vectors : 0; v < padded_vectors; ++v) {
      const auto at = static_cast<size_t>(index_offset(row, v, vectors));
      if (words[at] == std::byte{0}) continue;
      throw Error(ErrorCode::kCorruptFile,
                  "padding bytes of a table's indices are not zero in " + std::string(where),
                  {{"tensor", std::string(where)}, {"row", std::to_string(row)}});
    }
  }
}

}  // namespace subbit
