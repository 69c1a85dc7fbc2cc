// The order is kept as one round, which is written over from where the streams leave it.
#include "base/stream_order.h"

#include <algorithm>

namespace subbit {
namespace {

/// Of a round: many times the products of the largest models. Streams that never come twice must
/// not fill the memory.
constexpr size_t kMostStreams = 4096;

bool same(const Stream& a, const Stream& b) {
  return a.base == b.base && a.bytes_each == b.bytes_each && a.count == b.count;
}

}  // namespace

Stream StreamOrder::note(Stream now) {
  if (at_ == order_.size() || !same(now, order_[at_])) {
    const auto known = std::find_if(order_.begin(), order_.end(),
                                    [&](const Stream& other) { return same(now, other); });
    if (known == order_.end()) {
      order_.resize(at_ < kMostStreams ? at_ : 0);
      order_.push_back(now);
      at_ = order_.size();
      return {};
    }
    if (at_ == order_.size()) {  // the round begins again, without what came before it but once
      order_.erase(order_.begin(), known);
      at_ = 0;
    } else {
      at_ = static_cast<size_t>(known - order_.begin());
    }
  }
  ++at_;
  return order_[at_ < order_.size() ? at_ : 0];
}

}  // namespace subbit
