// A fixed set of worker threads that split a loop. Who computes an element never changes its
// value: tasks must not depend on how the range was cut.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace subbit {

/// A half-open run of loop indices given to one worker.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int worker = 0;  // 0..threads-1; 0 is the calling thread. For per-worker scratch.
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
  /// last may be short), claimed from a counter. Returns when all are done; rethrows the first
  /// exception a task threw. Called from one thread at a time; not from inside a task.
  template <typename Task>
  void parallel_for(int64_t count, int64_t grain, Task&& task) {
    using Fn = std::remove_reference_t<Task>;
    run(count, grain,
        {[](void* self, Range range) { (*static_cast<Fn*>(self))(range); },
         const_cast<void*>(static_cast<const void*>(std::addressof(task)))});
  }

  /// How many threads this machine lends to a model: physical performance cores.
  static int default_threads();

 private:
  struct TaskRef {
    void (*call)(void* self, Range range) = nullptr;
    void* self = nullptr;
  };
  void run(int64_t count, int64_t grain, TaskRef task);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace subbit
