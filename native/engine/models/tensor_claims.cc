// Claims and small vectors.
#include "models/tensor_claims.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace subbit {
namespace {

template <typename T>
float read_one(const TensorView& tensor, int64_t index) {
  T value;
  std::memcpy(&value, tensor.bytes.data() + static_cast<size_t>(index) * sizeof(T), sizeof(T));
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return to_float(value);
  }
}

}  // namespace

const TensorView& TensorClaims::claim(const std::string& name) {
  if (const TensorView* tensor = claim_if_present(name)) return *tensor;
  throw Error(ErrorCode::kCorruptFile, "tensor " + name + " is missing from " + checkpoint_.path(),
              {{"file", checkpoint_.path()}, {"tensor", name}});
}

const TensorView* TensorClaims::claim_if_present(const std::string& name) {
  const TensorView* tensor = checkpoint_.find(name);
  if (tensor != nullptr) claimed_.insert(name);
  return tensor;
}

void TensorClaims::finish() const {
  std::string leftover;
  for (const TensorView& tensor : checkpoint_.tensors()) {
    if (claimed_.contains(tensor.name) || tensor.name.ends_with(".rotary_emb.inv_freq")) continue;
    leftover += (leftover.empty() ? "" : ", ") + tensor.name;
    if (leftover.size() > 200) {
      leftover += ", ...";
      break;
    }
  }
  if (leftover.empty()) return;
  throw Error(ErrorCode::kCorruptFile,
              "tensors that no part of the model uses in " + checkpoint_.path() + ": " + leftover,
              {{"file", checkpoint_.path()}, {"tensors", leftover}});
}

std::vector<float> read_vector(const TensorView& tensor, int64_t expected) {
  if (tensor.shape != std::vector<int64_t>{expected}) {
    const std::string actual = std::to_string(tensor.count()) + " values in " +
                               std::to_string(tensor.shape.size()) + " dimensions";
    throw Error(ErrorCode::kCorruptFile, "tensor " + tensor.name + " has the wrong shape",
                {{"tensor", tensor.name},
                 {"expected", std::to_string(expected) + " values in 1 dimension"},
                 {"actual", actual}});
  }
  std::vector<float> values(static_cast<size_t>(expected));
  for (int64_t i = 0; i < expected; ++i) {
    switch (tensor.dtype) {
      case DType::kF32:
        values[static_cast<size_t>(i)] = read_one<float>(tensor, i);
        break;
      case DType::kF16:
        values[static_cast<size_t>(i)] = read_one<Half>(tensor, i);
        break;
      case DType::kBF16:
        values[static_cast<size_t>(i)] = read_one<BFloat16>(tensor, i);
        break;
      default:
        throw Error(ErrorCode::kUnsupportedFormat, "tensor " + tensor.name + " is not of floats",
                    {{"tensor", tensor.name},
                     {"expected", "F32, F16 or BF16"},
                     {"actual", std::string(dtype_name(tensor.dtype))}});
    }
    if (!std::isfinite(values[static_cast<size_t>(i)])) {
      throw Error(ErrorCode::kNonFinite,
                  "tensor " + tensor.name + " holds a value that is not finite",
                  {{"tensor", tensor.name}, {"index", std::to_string(i)}});
    }
  }
  return values;
}

}  // namespace subbit
