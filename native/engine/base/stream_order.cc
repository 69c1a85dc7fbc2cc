// The order is kept as one round, which is written over from where the streams leave it.
#include "base/stream_order.h"

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
  if (at_ > 0 && same(now, order_.front())) {
    order_.resize(at_);  // the round ends here
    at_ = 0;
  }
  if (at_ == order_.size() || !same(now, order_[at_])) {
    order_.resize(at_ < kMostStreams ? at_ : 0);
    order_.push_back(now);
    at_ = order_.size();
    return {};
  }
  ++at_;
  return order_[at_ < order_.size() ? at_ : 0];
}

}  // namespace subbit
