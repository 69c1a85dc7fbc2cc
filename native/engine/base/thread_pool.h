// A fixed set of worker threads that split a loop. Who computes an element never changes its
// value: tasks must not depend on how the range was cut.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "base/stream_order.h"

namespace subbit {

/// A half-open run of loop indices given to one worker.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int worker = 0;  // 0..threads-1; 0 is the calling thread. For per-worker scratch.
  /// Of a loop that streams: what this worker is likely to read when it has read all of the run.
  /// Only to be prefetched. Null: what lies behind the run, or nobody knows.
  const std::byte* then = nullptr;
};

class ThreadPool {
 public:
  /// `threads` >= 1, the caller included: ThreadPool(1) starts no thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  /// Calls task(Range) until [0, count) is covered, in pieces that are multiples of `grain` (the
  /// last may be short). Each thread has a run of pieces of its own, the same one in every loop
  /// over as many: it begins at the front and takes half of what is left at a time, so that it is
  /// called a few times only and the last pieces are small; then it takes single ones from the ends
  /// of the others'. Returns when all are done; rethrows the first exception a task threw. Called
  /// from one thread at a time; not from inside a task. `reads`: what the loop streams from memory,
  /// `bytes_each` for an index. Threads that wait prefetch the front of their run of the stream
  /// that came next the last time.
  template <typename Task>
  void parallel_for(int64_t count, int64_t grain, Task&& task, Stream reads = {}) {
    using Fn = std::remove_reference_t<Task>;
    run(count, grain,
        {[](void* self, Range range) { (*static_cast<Fn*>(self))(range); },
         const_cast<void*>(static_cast<const void*>(std::addressof(task)))},
        reads);
  }

  /// How many threads this machine lends to a model: physical performance cores.
  static int default_threads();

 private:
  struct TaskRef {
    void (*call)(void* self, Range range) = nullptr;
    void* self = nullptr;
  };
  void run(int64_t count, int64_t grain, TaskRef task, Stream reads);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace subbit
