// Any bytes handed to a weight format are either refused or can be unpacked and multiplied.
//
//   input: u8 format (index in the registry; the upper half picks dense's dtype) | u16 rows |
//          u16 columns | the tensor
// A packed linear says its own shape, so there the two are ignored; the tables it may name are the
// target's own, not the input's.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "base/thread_pool.h"
#include "formats/registry.h"
#include "formats/signs/quantized_rows.h"
#include "fuzz/target.h"

namespace subbit::fuzz {

/// Two tokens through the weight. Only kNonFinite may come of it: hostile scales do overflow.
inline void multiply_some(const Weight& weight) {
  static ThreadPool pool(1);
  const int64_t tokens = 2;
  const Shape shape = weight.shape();
  Buffer<float> values(tokens * shape.cols);
  for (int64_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3.0f;
  const ConstMatrix x(values.data(), tokens, shape.cols);
  QuantizedRows codes;
  quantize_rows(x, codes, pool);
  LinearInput in;
  in.values = x;
  in.quantized = &codes;
  Buffer<float> out(tokens * shape.rows);
  accepts({ErrorCode::kNonFinite}, [&] {
    weight.multiply(in, {out.data(), tokens, shape.rows}, OutputMode::kOverwrite, pool);
  });
}

/// Good tables of widths 4, 8 and 16 under the numbers 0 to 2, then one with a forbidden entry and
/// one of another type; the rest are missing.
inline const TensorView* shared_table(int number) {
  static const auto entries = [] {
    std::array<std::array<int8_t, 16 * kTableEntries>, 4> all;
    for (auto& table : all)
      for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int8_t>(i * 89 % 255 - 127);
    all[3][5] = -128;
    return all;
  }();
  const auto view = [](int table, int64_t width, DType dtype) {
    return TensorView{shared_table_name(table),
                      dtype,
                      {kTableEntries, width},
                      std::as_bytes(std::span(entries[static_cast<size_t>(std::min(table, 3))]))
                          .first(shared_table_bytes(width))};
  };
  static const std::array<TensorView, 5> tables = {view(0, 4, DType::kI8), view(1, 8, DType::kI8),
                                                   view(2, 16, DType::kI8), view(3, 8, DType::kI8),
                                                   view(4, 8, DType::kU8)};
  return number < static_cast<int>(tables.size()) ? &tables[static_cast<size_t>(number)] : nullptr;
}

inline bool fuzz_packed(std::span<const std::byte> input) {
  constexpr size_t kPrefix = 5;
  constexpr int64_t kMostElements = 1 << 18;  // what one run may spend its time on
  if (input.size() < kPrefix) return false;
  const auto selector = static_cast<size_t>(input[0]);
  const Format& format = *all_formats()[selector % 16 % all_formats().size()];
  std::array<uint16_t, 2> sizes = {};
  std::memcpy(sizes.data(), input.data() + 1, sizeof sizes);
  Shape shape = {sizes[0], sizes[1]};
  // Where a checkpoint would put it: at a multiple of four at least.
  Buffer<std::byte> bytes(static_cast<int64_t>(input.size() - kPrefix));
  if (bytes.size() > 0) std::memcpy(bytes.data(), input.data() + kPrefix, bytes.span().size());
  TensorView tensor = {"fuzz", DType::kU8, {bytes.size()}, bytes.span()};
  if (format.name() == "packed") {
    if (bytes.size() < 16) return false;
    std::array<uint32_t, 2> head = {};
    std::memcpy(head.data(), bytes.data() + 8, sizeof head);
    shape = {0, head[1]};
  } else if (format.name() == "dense") {
    tensor.dtype = std::array{DType::kF32, DType::kF16, DType::kBF16}[selector / 16 % 3];
    tensor.shape = {shape.rows, shape.cols};
    // The container has proved this much.
    if (shape.count() * dtype_bytes(tensor.dtype) != bytes.size()) return false;
  }
  // Sizes of zero never come out of a parsed config.
  if (shape.cols == 0 || (shape.rows == 0 && format.name() != "packed")) return false;

  std::unique_ptr<Weight> weight;
  const bool accepted = accepts({ErrorCode::kCorruptFile, ErrorCode::kUnsupportedFormat},
                                [&] { weight = format.view(tensor, shape, shared_table); });
  if (!accepted) return false;
  require(weight->packed_bytes() == static_cast<uint64_t>(bytes.size()), "bytes not counted");
  require(weight->shape().rows > 0 && weight->shape().cols == shape.cols, "another shape");
  require(
      weight->bias().empty() || static_cast<int64_t>(weight->bias().size()) == weight->shape().rows,
      "a bias of another length");
  if (weight->shape().count() > kMostElements) return true;
  Buffer<float> row(shape.cols);
  for (int64_t i = 0; i < weight->shape().rows; ++i)
    weight->unpack_rows(i, {row.data(), 1, shape.cols});
  multiply_some(*weight);
  return true;
}

}  // namespace subbit::fuzz
