// A back end that hands every call on to another and, on the way, sums the squares of what enters
// each linear layer, and for some of them all products.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/buffer.h"
#include "base/thread_pool.h"

namespace subbit {

class ObservingBackend final : public ForwardingBackend {
 public:
  explicit ObservingBackend(Backend& inner) : ForwardingBackend(inner) {}
  /// Products are summed for the linears named in `covariances`.
  ObservingBackend(Backend& inner, std::set<std::string> covariances, ThreadPool& pool)
      : ForwardingBackend(inner), wanted_(std::move(covariances)), pool_(&pool) {}

  /// Of one linear's input: per column the sum of squares over the tokens seen.
  struct Squares {
    std::vector<double> sums;
    int64_t tokens = 0;
  };
  const std::map<std::string, Squares, std::less<>>& squares() const { return squares_; }
  /// Mean products of columns, [cols, cols], over the tokens seen. Afterwards there are none.
  std::map<std::string, Buffer<float>, std::less<>> take_covariances();

  void linear(const Linear& linear, Tensor x, Tensor y) override;
  void linear_add(const Linear& linear, Tensor x, Tensor y) override;

 private:
  void observe(const Linear& linear, Tensor x);
  void add_products(const Linear& linear, Tensor x);

  std::set<std::string> wanted_;
  ThreadPool* pool_ = nullptr;
  std::map<std::string, Squares, std::less<>> squares_;
  std::map<std::string, Buffer<float>, std::less<>> products_;
  Buffer<float> scaled_;
};

}  // namespace subbit
