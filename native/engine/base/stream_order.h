// In which order loops read their streams. A model reads its matrices in the same order for every
// token, so whoever waits can know what will be read next and bring some of it nearer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace subbit {

/// Memory that a loop reads from one end to the other, `bytes_each` for each of `count` indices.
/// Only ever a hint: one that is remembered may have been freed, and is prefetched but never read.
struct Stream {
  const std::byte* base = nullptr;  // null: none
  int64_t bytes_each = 0;
  int64_t count = 0;
};

class StreamOrder {
 public:
  /// `now` is about to be read. Returns what was read after it the last time, or nothing.
  Stream note(Stream now);

 private:
  std::vector<Stream> order_;  // of one round: the first has not come a second time
  size_t at_ = 0;              // the place behind the stream noted last
};

}  // namespace subbit
