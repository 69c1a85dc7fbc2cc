// Any bytes are either refused or an exact tiling of the data by well-formed tensors.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/target.h"
#include "io/safetensors.h"

namespace subbit::fuzz {

/// Whether `tensors` are what a proved header may announce of `file`: checked by other means than
/// the reader's, from the views alone.
inline void require_consistent(const std::vector<TensorView>& tensors,
                               std::span<const std::byte> file) {
  std::set<std::string_view> names;
  std::vector<std::pair<const std::byte*, const std::byte*>> pieces;
  uint64_t covered = 0;
  for (const TensorView& tensor : tensors) {
    require(names.insert(tensor.name).second, "a name given twice");
    // In long double: exact far beyond any file, so it cannot overflow as the reader's might.
    long double product = static_cast<long double>(dtype_bytes(tensor.dtype));
    for (const int64_t size : tensor.shape) {
      require(size >= 0, "a negative size");
      product *= static_cast<long double>(size);
    }
    require(product == static_cast<long double>(tensor.bytes.size()), "a length beside its shape");
    require(tensor.count() * dtype_bytes(tensor.dtype) == static_cast<int64_t>(tensor.bytes.size()),
            "a count beside its length");
    covered += tensor.bytes.size();
    if (!tensor.bytes.empty())
      pieces.emplace_back(tensor.bytes.data(), tensor.bytes.data() + tensor.bytes.size());
  }
  std::sort(pieces.begin(), pieces.end());
  for (size_t i = 1; i < pieces.size(); ++i)
    require(pieces[i - 1].second == pieces[i].first, "tensors that do not touch");
  if (pieces.empty()) return;
  require(pieces.back().second == file.data() + file.size(), "data after the last tensor");
  require(covered + 8 <= file.size(), "data inside the header");
  for (const TensorView& tensor : tensors) read_all(tensor.bytes);
}

inline bool fuzz_safetensors(std::span<const std::byte> input) {
  std::vector<TensorView> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
  const bool accepted = accepts({ErrorCode::kCorruptFile, ErrorCode::kUnsupportedFormat},
                                [&] { tensors = parse_safetensors(input, "fuzz", &metadata); });
  if (accepted) require_consistent(tensors, input);
  return accepted;
}

}  // namespace subbit::fuzz
