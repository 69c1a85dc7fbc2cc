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

class ObservingBackend final : public ForwardingBackend {
 public:
  explicit ObservingBackend(Backend& inner) : ForwardingBackend(inner) {}

  /// Of one linear's input: per column the sum of squares over the tokens seen.
  struct Squares {
    std::vector<double> sums;
    int64_t tokens = 0;
  };
  const std::map<std::string, Squares, std::less<>>& squares() const { return squares_; }

  void linear(const Linear& linear, Tensor x, Tensor y) override;
  void linear_add(const Linear& linear, Tensor x, Tensor y) override;

 private:
  void observe(const Linear& linear, Tensor x);

  std::map<std::string, Squares, std::less<>> squares_;
};

}  // namespace subbit
