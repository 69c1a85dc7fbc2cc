// Packing, viewing and multiplying group-scaled matrices; the codings plug in by table.
#include "formats/groups/groups.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/rng.h"
#include "formats/signs/layout.h"
#include "formats/signs/multiply_scratch.h"

namespace subbit {
namespace {

constexpr uint64_t kAlignment = 128;
constexpr float kLeastScale = 0x1p-14f;  // the least normal half: GPUs flush denormals

/// Where the parts of a matrix lie.
struct GroupLayout {
  int64_t group;
  int64_t groups;
  uint64_t unit_bytes;
  uint64_t scales_at;
  uint64_t bytes;
};

GroupLayout layout_of(const GroupCoding& coding, Shape shape) {
  GroupLayout layout{};
  layout.group = shape.cols % 64 == 0 ? 64 : 32;
  layout.groups = (shape.cols + layout.group - 1) / layout.group;
  layout.unit_bytes = static_cast<uint64_t>(layout.group * coding.bits / 8);
  const uint64_t units = static_cast<uint64_t>(shape.rows) * static_cast<uint64_t>(layout.groups);
  layout.scales_at = units * layout.unit_bytes;
  layout.bytes = (layout.scales_at + 2 * units + kAlignment - 1) / kAlignment * kAlignment;
  return layout;
}

/// Codes of one group at `scale`; returns the squared error.
double round_group(const GroupCoding& coding, const float* w, int64_t count, float scale,
                   int8_t* codes) {
  double error = 0;
  for (int64_t j = 0; j < count; ++j) {
    const float code = nearest_code(coding, scale == 0 ? 0.0f : w[j] / scale);
    const double residue = static_cast<double>(w[j]) - static_cast<double>(code) * scale;
    codes[j] = static_cast<int8_t>(code);
    error += residue * residue;
  }
  return error;
}

/// Tries the scale that fits the extreme weight exactly and smaller ones, which trade that weight
/// for the rest; both signs, because the code range may not be symmetric.
Half best_scale(const GroupCoding& coding, const float* w, int64_t count, int8_t* codes) {
  float extreme = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (!std::isfinite(w[j])) throw Error(ErrorCode::kNonFinite, "a weight is not a finite number");
    if (std::fabs(w[j]) > std::fabs(extreme)) extreme = w[j];
  }
  Half best{};
  std::vector<int8_t> trial(static_cast<size_t>(count));
  double best_error = round_group(coding, w, count, 0.0f, codes);
  if (extreme == 0) return best;
  // At 8 bits the first is already fine; the fewer codes there are, the more do extremes cost.
  const int tries = coding.bits == 8 ? 1 : coding.bits == 4 ? 12 : 24;
  for (const int32_t end : {coding.code_min, coding.code_max}) {
    if (end < 0 && coding.code_min == -coding.code_max && coding.bits < 4) continue;  // a mirror
    for (int i = 0; i < tries; ++i) {
      const float shrink = 1.0f - 0.03f * static_cast<float>(i);
      const float wanted = shrink * extreme / static_cast<float>(end);
      // Below the least scale a group of tiny weights keeps a step of 2^-14, not nothing.
      const Half half =
          to_half(std::fabs(wanted) < kLeastScale ? std::copysign(kLeastScale, wanted) : wanted);
      if (!std::isfinite(to_float(half))) {
        throw Error(ErrorCode::kNonFinite, "a weight is too large for a half scale");
      }
      const double error = round_group(coding, w, count, to_float(half), trial.data());
      if (error >= best_error) continue;
      best_error = error;
      best = half;
      std::copy(trial.begin(), trial.end(), codes);
    }
  }
  return best;
}

/// The fastest that this machine runs on groups of that many columns.
const GroupKernel& kernel_for(const GroupCoding& coding, int64_t group) {
  return *std::ranges::find_if(coding.kernels,
                               [group](const GroupKernel& kernel) { return kernel.usable(group); });
}

class GroupWeight final : public Weight {
 public:
  GroupWeight(const GroupCoding& coding, std::span<const std::byte> bytes, Shape shape)
      : Weight(shape),
        coding_(coding),
        bytes_(bytes),
        layout_(layout_of(coding, shape)),
        kernel_(kernel_for(coding, layout_.group)) {}

  std::string_view format() const override { return coding_.name; }
  uint64_t packed_bytes() const override { return bytes_.size(); }
  InputKind input_kind() const override { return InputKind::kCodes; }

  void unpack_rows(int64_t first_row, Matrix out) const override {
    int8_t codes[64];
    for (int64_t i = 0; i < out.rows; ++i) {
      for (int64_t g = 0; g < layout_.groups; ++g) {
        coding_.load(units(first_row + i) + g * static_cast<int64_t>(layout_.unit_bytes),
                     layout_.group, codes);
        const float scale = to_float(scales(first_row + i)[g]);
        const int64_t first = g * layout_.group;
        for (int64_t j = first; j < std::min(first + layout_.group, out.cols); ++j) {
          out.at(i, j) = static_cast<float>(codes[j - first]) * scale;
        }
      }
    }
  }

  StoredWeight stored() const override {
    StoredWeight stored;
    stored.kind = coding_.stored;
    stored.bytes = bytes_;
    stored.group = layout_.group;
    stored.scales_at = layout_.scales_at;
    stored.code_reach = coding_.code_reach;
    return stored;
  }
  void multiply(const LinearInput& in, Matrix out, OutputMode mode,
                ThreadPool& pool) const override;

 private:
  const uint8_t* units(int64_t row) const {
    return reinterpret_cast<const uint8_t*>(bytes_.data()) +
           row * layout_.groups * static_cast<int64_t>(layout_.unit_bytes);
  }
  const Half* scales(int64_t row) const {
    return reinterpret_cast<const Half*>(bytes_.data() + layout_.scales_at) + row * layout_.groups;
  }

  const GroupCoding& coding_;
  std::span<const std::byte> bytes_;
  GroupLayout layout_;
  const GroupKernel& kernel_;
};

void GroupWeight::multiply(const LinearInput& in, Matrix out, OutputMode mode,
                           ThreadPool& pool) const {
  CHECK(in.quantized != nullptr && in.quantized->cols == shape().cols);
  const int64_t tokens = in.values.rows;
  CHECK(out.rows == tokens && out.cols == shape().rows);
  MultiplyScratch own;
  MultiplyScratch& scratch = in.scratch == nullptr ? own : *in.scratch;
  LoadedCodes& loaded = scratch.group_codes;
  load_codes(*in.quantized, layout_.group * coding_.code_reach, loaded, pool);
  float* const gains = reserve(scratch.gains, tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const float rho = in.row_scale == nullptr ? 1.0f : in.row_scale[t];
    gains[t] = std::ldexp(1.0f, loaded.exponents[t]) * rho;
  }
  const int64_t operand_bytes =
      kernel_.operand_bytes == nullptr ? 0 : kernel_.operand_bytes(layout_.groups);
  uint8_t* const operands = reserve(scratch.group_operand, tokens * operand_bytes);
  const auto row_of = [&](int64_t i, int64_t t) {
    return GroupRow{units(i),
                    scales(i),
                    layout_.groups,
                    layout_.group,
                    loaded.codes.data() + t * loaded.chunks * kChunk,
                    loaded.shifts.data() + t * loaded.chunks,
                    operands + t * operand_bytes};
  };
  if (kernel_.load != nullptr) {
    pool.parallel_for(tokens, 4, [&](Range range) {
      for (int64_t t = range.begin; t < range.end; ++t)
        kernel_.load(row_of(0, t), operands + t * operand_bytes);
    });
  }
  // About 32 KiB of codes a claim.
  const int64_t row_bytes = layout_.groups * static_cast<int64_t>(layout_.unit_bytes);
  const int64_t abreast = kernel_.dots == nullptr ? 1 : kernel_.abreast(layout_.groups);
  const auto multiply = [&](Range range) {
    float sums[GroupKernel::kMostAbreast];
    for (int64_t i = range.begin, rows = 0; i < range.end; i += rows) {
      rows = range.end - i < abreast ? 1 : abreast;
      for (int64_t t = 0; t < tokens; ++t) {
        if (rows == 1) {
          sums[0] = kernel_.dot(row_of(i, t));
        } else {
          kernel_.dots(row_of(i, t), sums);
        }
        float* const y = out.row(t) + i;
        for (int64_t r = 0; r < rows; ++r) {
          const float value = sums[r] * gains[t];
          y[r] = mode == OutputMode::kAdd ? y[r] + value : value;
        }
      }
    }
  };
  const Stream codes = {tokens == 1 ? bytes_.data() : nullptr, row_bytes};
  pool.parallel_for(shape().rows, std::max<int64_t>(1, 32768 / row_bytes), multiply, codes);
}

[[noreturn]] void refuse(const TensorView& tensor, const std::string& what,
                         const std::string& expected, const std::string& actual) {
  throw Error(ErrorCode::kCorruptFile, "tensor " + tensor.name + ": " + what,
              {{"tensor", tensor.name}, {"expected", expected}, {"actual", actual}});
}

}  // namespace

uint64_t group_bytes(const GroupCoding& coding, Shape shape) {
  return layout_of(coding, shape).bytes;
}

std::vector<std::byte> pack_groups(const GroupCoding& coding, ConstMatrix weights) {
  const GroupLayout layout = layout_of(coding, weights.shape());
  std::vector<std::byte> out(layout.bytes);
  for (int64_t i = 0; i < weights.rows; ++i) {
    for (int64_t g = 0; g < layout.groups; ++g) {
      int8_t codes[64] = {};
      const int64_t first = g * layout.group;
      const Half scale = best_scale(coding, weights.row(i) + first,
                                    std::min(layout.group, weights.cols - first), codes);
      const auto index = static_cast<uint64_t>(i * layout.groups + g);
      coding.store(codes, layout.group,
                   reinterpret_cast<uint8_t*>(out.data() + index * layout.unit_bytes));
      std::memcpy(out.data() + layout.scales_at + 2 * index, &scale, sizeof(scale));
    }
  }
  return out;
}

GroupCodes read_groups(const GroupCoding& coding, Shape shape, std::span<const std::byte> bytes) {
  const GroupLayout layout = layout_of(coding, shape);
  CHECK(bytes.size() == layout.bytes);
  const int64_t units = shape.rows * layout.groups;
  GroupCodes out{layout.group, layout.groups, {}, {}};
  out.codes.resize(static_cast<size_t>(units * layout.group));
  const auto* from = reinterpret_cast<const uint8_t*>(bytes.data());
  const auto* scales = reinterpret_cast<const Half*>(bytes.data() + layout.scales_at);
  for (int64_t unit = 0; unit < units; ++unit) {
    coding.load(from + unit * static_cast<int64_t>(layout.unit_bytes), layout.group,
                out.codes.data() + unit * layout.group);
    out.scales.push_back(to_float(scales[unit]));
  }
  return out;
}

void replace_codes(const GroupCoding& coding, Shape shape, std::span<const int8_t> codes,
                   std::span<std::byte> bytes) {
  const GroupLayout layout = layout_of(coding, shape);
  const int64_t units = shape.rows * layout.groups;
  CHECK(bytes.size() == layout.bytes && std::ssize(codes) == units * layout.group);
  auto* to = reinterpret_cast<uint8_t*>(bytes.data());
  for (int64_t unit = 0; unit < units; ++unit) {
    coding.store(codes.data() + unit * layout.group, layout.group,
                 to + unit * static_cast<int64_t>(layout.unit_bytes));
  }
}

std::vector<std::byte> random_groups(const GroupCoding& coding, Shape shape, float deviation,
                                     uint64_t seed) {
  const GroupLayout layout = layout_of(coding, shape);
  const int32_t step = coding.code_step;
  const auto levels = static_cast<uint64_t>((coding.code_max - coding.code_min) / step + 1);
  double squares = 0;
  for (int32_t code = coding.code_min; code <= coding.code_max; code += step)
    squares += code * code;
  const auto rms = static_cast<float>(std::sqrt(squares / static_cast<double>(levels)));
  const Half scale = to_half(deviation / rms);
  if (!(to_float(scale) >= kLeastScale && std::isfinite(to_float(scale)))) {
    throw Error(ErrorCode::kNonFinite, "no half scale gives weights of this size",
                {{"actual", std::to_string(deviation)}});
  }
  std::vector<std::byte> out(layout.bytes);
  Rng rng(seed);
  for (int64_t i = 0; i < shape.rows; ++i) {
    for (int64_t g = 0; g < layout.groups; ++g) {
      int8_t codes[64] = {};
      const int64_t used = std::min(layout.group, shape.cols - g * layout.group);
      uint64_t random = 0;
      for (int64_t j = 0; j < used; ++j) {
        // Four codes a draw: 16 bits each, multiplied into the range (Lemire 2019).
        random = j % 4 == 0 ? rng.next() : random >> 16;
        const auto level = static_cast<int32_t>((random & 0xFFFF) * levels >> 16);
        codes[j] = static_cast<int8_t>(coding.code_min + step * level);
      }
      const auto index = static_cast<uint64_t>(i * layout.groups + g);
      coding.store(codes, layout.group,
                   reinterpret_cast<uint8_t*>(out.data() + index * layout.unit_bytes));
      std::memcpy(out.data() + layout.scales_at + 2 * index, &scale, sizeof(scale));
    }
  }
  return out;
}

uint64_t GroupFormat::scratch_bytes(std::span<const PlannedMatrix> matrices) const {
  uint64_t codes = 0;
  uint64_t operands = 0;
  for (const auto& [shape, bytes, tokens, terms] : matrices) {
    const GroupLayout layout = layout_of(coding_, shape);
    const GroupKernel& kernel = kernel_for(coding_, layout.group);
    const int64_t operand =
        kernel.operand_bytes == nullptr ? 0 : kernel.operand_bytes(layout.groups);
    codes = std::max(codes, loaded_codes_bytes(tokens, shape.cols));
    operands = std::max(operands, static_cast<uint64_t>(tokens * operand));
  }
  return codes + operands;
}

std::unique_ptr<Weight> GroupFormat::view(const TensorView& tensor, Shape shape,
                                          const SharedTables& /*tables*/) const {
  if (tensor.dtype != DType::kU8) {
    refuse(tensor, "wrong type", "U8", std::string(dtype_name(tensor.dtype)));
  }
  CHECK(shape.rows > 0 && shape.cols > 0);
  const GroupLayout layout = layout_of(coding_, shape);
  if (tensor.bytes.size() != layout.bytes) {
    refuse(tensor, "wrong length", std::to_string(layout.bytes) + " bytes",
           std::to_string(tensor.bytes.size()));
  }
  const uint64_t units = static_cast<uint64_t>(shape.rows) * static_cast<uint64_t>(layout.groups);
  for (uint64_t i = 0; i < units; ++i) {
    Half scale;
    std::memcpy(&scale, tensor.bytes.data() + layout.scales_at + 2 * i, sizeof(scale));
    const int exponent = (scale.bits >> 10) & 0x1F;
    if (exponent == 0x1F || (exponent == 0 && (scale.bits & 0x7FFF) != 0)) {
      refuse(tensor, "a scale", "zero or a normal half", std::to_string(scale.bits));
    }
  }
  for (uint64_t i = layout.scales_at + 2 * units; i < layout.bytes; ++i) {
    if (tensor.bytes[i] != std::byte{0}) refuse(tensor, "padding", "zero", "something else");
  }
  return std::make_unique<GroupWeight>(coding_, tensor.bytes, shape);
}

}  // namespace subbit
