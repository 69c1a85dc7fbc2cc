// Plain weights, row-major, mapped where they lie. The teacher in compression, the reference in
// tests; its kernels are the engine's float GEMM and dot product.
#include "formats/dense/dense.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/half.h"
#include "linalg/dense_dot.h"
#include "linalg/gemm.h"

namespace subbit {
namespace {

class DenseWeight final : public Weight {
 public:
  DenseWeight(const void* data, GemmOperand::Type type, std::string_view name, uint64_t bytes,
              Shape shape)
      : Weight(shape), name_(name), bytes_(bytes) {
    stored_.data = data;
    stored_.rows = shape.rows;
    stored_.cols = shape.cols;
    stored_.stride = shape.cols;
    stored_.type = type;
  }
  DenseWeight(Buffer<float> values, Shape shape)
      : DenseWeight(values.data(), GemmOperand::Type::kF32, "F32",
                    static_cast<uint64_t>(shape.count()) * sizeof(float), shape) {
    owned_ = std::move(values);
  }

  std::string_view format() const override { return name_; }
  uint64_t packed_bytes() const override { return bytes_; }
  InputKind input_kind() const override { return InputKind::kFloat; }
  void unpack_rows(int64_t first_row, Matrix out) const override;
  StoredWeight stored() const override;
  void multiply(const LinearInput& in, Matrix out, OutputMode mode,
                ThreadPool& pool) const override;

 private:
  std::string_view name_;
  uint64_t bytes_;
  GemmOperand stored_;
  Buffer<float> owned_;
};

void DenseWeight::unpack_rows(int64_t first_row, Matrix out) const {
  CHECK(out.cols == shape().cols && first_row + out.rows <= shape().rows);
  for (int64_t i = 0; i < out.rows; ++i) {
    const int64_t begin = (first_row + i) * shape().cols;
    for (int64_t j = 0; j < out.cols; ++j) {
      switch (stored_.type) {
        case GemmOperand::Type::kF32:
          out.at(i, j) = static_cast<const float*>(stored_.data)[begin + j];
          break;
        case GemmOperand::Type::kF16:
          out.at(i, j) = to_float(static_cast<const Half*>(stored_.data)[begin + j]);
          break;
        case GemmOperand::Type::kBF16:
          out.at(i, j) = to_float(static_cast<const BFloat16*>(stored_.data)[begin + j]);
          break;
      }
    }
  }
}

StoredWeight DenseWeight::stored() const {
  StoredWeight stored;
  switch (stored_.type) {
    case GemmOperand::Type::kF32:
      stored.kind = StoredWeight::Kind::kF32;
      break;
    case GemmOperand::Type::kF16:
      stored.kind = StoredWeight::Kind::kF16;
      break;
    case GemmOperand::Type::kBF16:
      stored.kind = StoredWeight::Kind::kBF16;
      break;
  }
  stored.bytes = {static_cast<const std::byte*>(stored_.data), static_cast<size_t>(bytes_)};
  return stored;
}

void DenseWeight::multiply(const LinearInput& in, Matrix out, OutputMode mode,
                           ThreadPool& pool) const {
  const int64_t tokens = in.values.rows;
  CHECK(out.rows == tokens && out.cols == shape().rows);
  const bool direct = mode == OutputMode::kOverwrite && in.row_scale == nullptr;
  Buffer<float> product(direct ? 0 : tokens * out.cols);
  const Matrix y = direct ? out : Matrix(product.data(), tokens, out.cols);
  if (tokens == 1) {
    dense_dot(stored_, {in.values.row(0), static_cast<size_t>(in.values.cols)},
              {y.row(0), static_cast<size_t>(y.cols)}, pool);
  } else {
    GemmOperand transposed = stored_;
    transposed.transpose = Transpose::kYes;
    gemm(in.values, transposed, y, Accumulate::kOverwrite, pool);
  }
  if (direct) return;
  pool.parallel_for(tokens, 8, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const float scale = in.row_scale == nullptr ? 1.0f : in.row_scale[t];
      for (int64_t i = 0; i < out.cols; ++i) {
        const float value = y.at(t, i) * scale;
        out.at(t, i) = mode == OutputMode::kAdd ? out.at(t, i) + value : value;
      }
    }
  });
}

class DenseFormat final : public Format {
 public:
  std::string_view name() const override { return "dense"; }
  int layout_version() const override { return 1; }
  uint64_t scratch_bytes(std::span<const PlannedMatrix> matrices) const override {
    int64_t most = 0;  // products before the row scale
    for (const auto& matrix : matrices) most = std::max(most, matrix.tokens * matrix.shape.rows);
    return sizeof(float) * static_cast<uint64_t>(most);
  }
  std::unique_ptr<Weight> view(const TensorView& tensor, Shape shape,
                               const SharedTables& /*tables*/) const override {
    GemmOperand::Type type;
    switch (tensor.dtype) {
      case DType::kF32:
        type = GemmOperand::Type::kF32;
        break;
      case DType::kF16:
        type = GemmOperand::Type::kF16;
        break;
      case DType::kBF16:
        type = GemmOperand::Type::kBF16;
        break;
      default:
        throw Error(ErrorCode::kUnsupportedFormat,
                    "tensor " + tensor.name +
                        " has a type that is "
                        "not a float the engine computes with",
                    {{"tensor", tensor.name},
                     {"expected", "F32, F16 or BF16"},
                     {"actual", std::string(dtype_name(tensor.dtype))}});
    }
    const auto text = [](const std::vector<int64_t>& dims) {
      std::string s;
      for (const int64_t d : dims) s += (s.empty() ? "" : " x ") + std::to_string(d);
      return s;
    };
    if (tensor.shape != std::vector<int64_t>{shape.rows, shape.cols}) {
      throw Error(ErrorCode::kCorruptFile, "tensor " + tensor.name + " has the wrong shape",
                  {{"tensor", tensor.name},
                   {"expected", text({shape.rows, shape.cols})},
                   {"actual", text(tensor.shape)}});
    }
    return std::make_unique<DenseWeight>(tensor.bytes.data(), type, dtype_name(tensor.dtype),
                                         tensor.bytes.size(), shape);
  }
};

}  // namespace

const Format& dense_format() {
  static const DenseFormat format;
  return format;
}

std::unique_ptr<Weight> make_dense_weight(Buffer<float> values, Shape shape) {
  CHECK(values.size() == shape.count());
  return std::make_unique<DenseWeight>(std::move(values), shape);
}

}  // namespace subbit
