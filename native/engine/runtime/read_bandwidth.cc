// How fast this machine reads memory: the limit of decoding, which reads every weight once a token.
// Threads sum a buffer far larger than any cache, as sequential loads with nothing to wait for. The
// best of many short pieces is taken: short enough that a busy machine leaves some undisturbed.
#include <algorithm>
#include <chrono>

#include "base/buffer.h"
#include "base/huge_pages.h"
#include "base/thread_pool.h"
#include "engine.h"
#include "runtime/opened_model.h"

namespace subbit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBytes = int64_t{512} << 20;      // sixteen times a large last-level cache
constexpr int64_t kSliceBytes = int64_t{64} << 20;  // timed as one: some milliseconds
constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr int kPasses = 6;
constexpr int64_t kStreams = 8;  // independent sums: one chain of additions would be the limit

uint64_t sum_of(const uint64_t* words, int64_t count) {
  uint64_t sums[kStreams] = {};
  for (int64_t i = 0; i < count; i += kStreams)
    for (int64_t s = 0; s < kStreams; ++s) sums[s] += words[i + s];
  uint64_t sum = 0;
  for (const uint64_t one : sums) sum += one;
  return sum;
}

}  // namespace

double measure_read_bandwidth(int threads, JobControl& control) {
  ThreadPool pool(resolve_threads(threads));
  // Written, and with what is not zero: untouched pages are all the same page.
  Buffer<uint64_t> words(kBytes / 8);
  prefer_huge_pages(words.data(), kBytes);  // as weights may lie
  std::ranges::fill(words.span(), 0x5bd1e995u);
  constexpr int64_t kPieceWords = kPieceBytes / 8;
  std::atomic<uint64_t> total{0};
  double best = 0;
  constexpr int64_t kSlices = kBytes / kSliceBytes;
  for (int64_t slice = 0; slice < kPasses * kSlices; ++slice) {
    if (control.abort) throw Error(ErrorCode::kAborted, "aborted");
    // When a slice comes again, the others have pushed it out of every cache.
    const uint64_t* first = words.data() + slice % kSlices * (kSliceBytes / 8);
    const auto start = Clock::now();
    pool.parallel_for(kSliceBytes / kPieceBytes, 1, [&](Range range) {
      total += sum_of(first + range.begin * kPieceWords, (range.end - range.begin) * kPieceWords);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, static_cast<double>(kSliceBytes) / seconds);
  }
  // Never true; without a use of the sum there would be no loads.
  return total == 0 ? 0 : best;
}

}  // namespace subbit
