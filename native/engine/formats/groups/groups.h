// What the group-scaled formats (int2, int3, int4, int8) share: a matrix of small integers, each
// run of 64 columns (32 where the width is no multiple of 64) with one half scale.
//
//   units    rows x groups, row-major: the codes of one group, `unit_bytes`
//   scales   half[rows][groups]
//   padding  zero to a multiple of 128 bytes
//
// A format supplies how a unit holds its codes; the weight is code * scale.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/half.h"
#include "formats/format.h"
#include "formats/signs/loaded_codes.h"

namespace subbit {

/// One row's units and scales and one token's codes, as a kernel reads them.
struct GroupRow {
  const uint8_t* units = nullptr;  // [groups, unit_bytes]
  const Half* scales = nullptr;    // [groups]
  int64_t groups = 0;
  int64_t group = 0;                 // columns: 64 or 32
  const int8_t* codes = nullptr;     // loaded codes of one token, zero-padded to whole groups
  const uint8_t* shifts = nullptr;   // one for each 32 codes
  const uint8_t* operand = nullptr;  // the same as the kernel's load() laid them out
};

/// sum over groups of float(I_g) * scale_g by some instruction set. Kernels differ by a few
/// roundings of the sum of magnitudes; one kernel gives a row the same bits in any company.
struct GroupKernel {
  const char* name = "";
  bool (*usable)(int64_t group) = nullptr;
  float (*dot)(const GroupRow& row) = nullptr;
  /// For kernels that read codes in a form of their own: its bytes, a multiple of 64, and how to
  /// write it from codes and shifts.
  int64_t (*operand_bytes)(int64_t groups) = nullptr;
  void (*load)(const GroupRow& row, uint8_t* operand) = nullptr;
  /// For kernels that multiply several rows abreast: how many at so many groups, at most
  /// kMostAbreast, and what dot() gives for that many rows from `first` on.
  int64_t (*abreast)(int64_t groups) = nullptr;
  void (*dots)(const GroupRow& first, float* sums) = nullptr;

  static constexpr int64_t kMostAbreast = 4;
};

/// How one integer width stores and multiplies a group.
struct GroupCoding {
  std::string_view name;
  StoredWeight::Kind stored = StoredWeight::Kind::kOpaque;
  int bits = 0;          // of a code; unit_bytes = group * bits / 8
  int32_t code_min = 0;  // codes lie in [code_min, code_max]
  int32_t code_max = 0;
  int32_t code_step = 1;   // from one code to the next: 2 where none is zero
  int32_t code_reach = 0;  // largest |code|
  void (*store)(const int8_t* codes, int64_t group, uint8_t* unit) = nullptr;
  void (*load)(const uint8_t* unit, int64_t group, int8_t* codes) = nullptr;
  /// Fastest first. The last is plain: fma(float(I_g), scale_g, y), group after group.
  std::span<const GroupKernel> kernels;
};

uint64_t group_bytes(const GroupCoding& coding, Shape shape);
/// Rounds each group to the scale, among a few, with the least squared error.
/// Throws kNonFinite on a weight that is not finite.
std::vector<std::byte> pack_groups(const GroupCoding& coding, ConstMatrix weights);

/// Of a packed matrix, [rows, groups * group] codes and [rows, groups] scales; columns beyond the
/// matrix's are the padding of the last group.
struct GroupCodes {
  int64_t group = 0;
  int64_t groups = 0;
  std::vector<int8_t> codes;
  std::vector<float> scales;
};
GroupCodes read_groups(const GroupCoding& coding, Shape shape, std::span<const std::byte> bytes);
/// Puts codes, as read_groups() orders them, in the place of those in `bytes`. Scales stay.
void replace_codes(const GroupCoding& coding, Shape shape, std::span<const int8_t> codes,
                   std::span<std::byte> bytes);
/// The code nearest to a weight of so many scales.
inline float nearest_code(const GroupCoding& coding, float level) {
  const auto least = static_cast<float>(coding.code_min);
  const auto most = static_cast<float>(coding.code_max);
  if (coding.code_step == 1) return std::clamp(std::nearbyint(level), least, most);
  const auto step = static_cast<float>(coding.code_step);
  return std::clamp(least + step * std::nearbyint((level - least) / step), least, most);
}

/// Random codes, all of them alike likely, at one scale: weights of root mean square `deviation`.
/// What speed and memory depend on, where there is no model. Throws kNonFinite when the scale is no
/// normal half.
std::vector<std::byte> random_groups(const GroupCoding& coding, Shape shape, float deviation,
                                     uint64_t seed);

/// The format of a coding. view() checks type, length, scales and padding.
class GroupFormat final : public Format {
 public:
  /// `coding` must outlive the format.
  explicit GroupFormat(const GroupCoding& coding) : coding_(coding) {}
  std::string_view name() const override { return coding_.name; }
  int layout_version() const override { return 1; }
  uint64_t scratch_bytes(std::span<const PlannedMatrix> matrices) const override;
  using Format::view;
  std::unique_ptr<Weight> view(const TensorView& tensor, Shape shape,
                               const SharedTables& tables) const override;

 private:
  const GroupCoding& coding_;
};

}  // namespace subbit
