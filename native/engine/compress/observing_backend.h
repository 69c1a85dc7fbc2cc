// A back end that hands every call on to another and, on the way, sums the squares of what enters
// each linear layer.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace subbit {

class ObservingBackend final : public Backend {
 public:
  explicit ObservingBackend(Backend& inner) : inner_(inner) {}

  /// Of one linear's input: per column the sum of squares over the tokens seen.
  struct Squares {
    std::vector<double> sums;
    int64_t tokens = 0;
  };
  const std::map<std::string, Squares, std::less<>>& squares() const { return squares_; }

  void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) override;
  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override;
  void linear(const Linear& linear, Tensor x, Tensor y) override;
  void linear_add(const Linear& linear, Tensor x, Tensor y) override;
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override;
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override;
  void swiglu(Tensor gate, Tensor up, Tensor out) override;
  void finish() override;

 private:
  void observe(const Linear& linear, Tensor x);

  Backend& inner_;
  std::map<std::string, Squares, std::less<>> squares_;
};

}  // namespace subbit
