// Sorting by alignment.
#include "compress/file_order.h"

#include <algorithm>
#include <utility>

#include "io/safetensors_size.h"

namespace subbit {
namespace {

constexpr uint64_t kMostAlignment = 128;  // the largest the layouts ask for

uint64_t kept_alignment(const TensorSpec& tensor) {
  const auto length = static_cast<uint64_t>(tensor.bytes());
  return length == 0 ? kMostAlignment : std::min(length & (~length + 1), kMostAlignment);
}

}  // namespace

std::vector<size_t> file_order(std::span<const TensorSpec> tensors) {
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return kept_alignment(tensors[a]) > kept_alignment(tensors[b]);
  });
  return order;
}

std::vector<TensorSpec> in_file_order(std::vector<TensorSpec> tensors) {
  std::vector<TensorSpec> ordered;
  for (const size_t i : file_order(tensors)) ordered.push_back(std::move(tensors[i]));
  return ordered;
}

std::vector<std::pair<std::string, std::string>> weight_file_metadata() {
  return {{"format", "pt"}};
}

uint64_t safetensors_bytes(const std::vector<TensorSpec>& tensors) {
  uint64_t bytes = safetensors_header_bytes(tensors, weight_file_metadata());
  for (const TensorSpec& tensor : tensors) bytes += static_cast<uint64_t>(tensor.bytes());
  return bytes;
}

}  // namespace subbit
