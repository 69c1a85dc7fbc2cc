// Small jobs that between them make the GPU back end dispatch every kernel a model can need: calls
// of backend.h over random numbers, the same for whatever back end is asked. Shapes are awkward: no
// count is a multiple of a tile, rows end in a part of a chunk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/gpu/policy.h"
#include "base/buffer.h"
#include "base/rng.h"

namespace subbit {

/// The memory of one case. Two scenes that are asked for the same things hold the same numbers.
class Scene {
 public:
  Scene();

  std::span<const std::byte> memory() const { return std::as_bytes(memory_.span()); }
  /// Random numbers of unit variance.
  Tensor tensor(int64_t rows, int64_t columns);
  /// The same, with a scale of 1 for each row.
  Tensor scaled_tensor(int64_t rows, int64_t columns);
  KvLayer cache(KvType type, int64_t heads, int64_t head_dim, int64_t capacity);

  /// What must come out: each value within `tolerance` times their root mean square.
  struct Result {
    Tensor values;
    double tolerance = 0;
  };
  void expect(const Tensor& values, double tolerance) { results_.push_back({values, tolerance}); }
  const std::vector<Result>& results() const { return results_; }
  int32_t index = -1;  // what an argmax found

 private:
  float* take(int64_t floats);

  Buffer<float> memory_;
  int64_t used_ = 0;
  Rng rng_{1};
  std::vector<Result> results_;
};

struct KernelCase {
  std::string name;  // for people: "signs into a residual sum and a norm, 3 tokens"
  GpuPolicy policy;
  std::function<void(Backend& backend, Scene& scene)> run;
};

std::vector<KernelCase> kernel_cases();

}  // namespace subbit
