// The pool's gate and its sleepers. One 64-bit word, the gate, holds the number of the current
// loop, whether it still admits workers, and how many are inside. A worker that wakes up late finds
// the gate shut and stays out, so the caller never waits for a thread that is still being
// scheduled: it only waits for those that are computing.
#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/processor.h"

#if defined(__APPLE__)
#include <pthread.h>
#include <pthread/qos.h>
#endif

namespace subbit {
namespace {

constexpr uint64_t kInsideMask = 0xFFFF;
constexpr uint64_t kOpen = uint64_t{1} << 16;
constexpr int kLoopShift = 17;

// A decoded token is a few hundred loops, microseconds apart; going to sleep between them would
// cost two system calls each. 30 us bridges that gap and is too short to matter to a neighbour.
constexpr std::chrono::microseconds kSpinTime{30};

// Pieces per thread: enough that a slow thread loses at most an eighth of its share.
constexpr int64_t kPiecesPerThread = 8;

void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // "yield" is a no-op on most cores; isb takes about as long as x86's pause
#endif
}

/// Waits for `ready` for at most kSpinTime; says whether it came.
template <typename Ready>
bool spin_until(Ready&& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause_processor();
    }
    // With more threads than processors the one we wait for may need ours.
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

}  // namespace

struct ThreadPool::State {
  // The gate is stored with release after the loop's fields are written, and a worker enters with
  // acquire; it leaves with release, and the caller's last look is an acquire.
  alignas(128) std::atomic<uint64_t> gate{0};
  alignas(128) std::atomic<int64_t> next{0};

  // The current loop; written only while nobody is inside.
  TaskRef task;
  int64_t count = 0;
  int64_t piece = 0;

  std::mutex mutex;  // guards what follows and both waits
  std::condition_variable work;
  std::condition_variable done;
  int sleepers = 0;
  bool stop = false;
  std::exception_ptr error;

  ProcessorSet processors;  // the workers' at first, those of the thread that made the pool
  int kept_off = -1;        // the processor that has been taken from them, the caller's

  std::atomic<bool> stopping{false};  // `stop`, for spinning workers
  std::atomic<bool> busy{false};
  std::vector<std::thread> workers;

  void drain(int worker);
  void work_until_stopped(int worker);
  bool enter(uint64_t& last_loop);
  void leave();
  void close_and_wait();
  void keep_off_the_caller();
  void shut_down();
};

/// Claims pieces until none is left. The first exception empties the counter.
void ThreadPool::State::drain(int worker) {
  try {
    while (true) {
      const int64_t begin = next.fetch_add(piece, std::memory_order_relaxed);
      if (begin >= count) return;
      task.call(task.self, {begin, std::min(begin + piece, count), worker});
    }
  } catch (...) {
    next.store(count, std::memory_order_relaxed);
    const std::lock_guard lock(mutex);
    if (!error) error = std::current_exception();
  }
}

/// Joins the loop at the gate if it is open and not the one this worker has already seen.
bool ThreadPool::State::enter(uint64_t& last_loop) {
  uint64_t seen = gate.load(std::memory_order_relaxed);
  while ((seen & kOpen) != 0 && (seen >> kLoopShift) != last_loop) {
    if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire,
                                   std::memory_order_relaxed)) {
      last_loop = seen >> kLoopShift;
      return true;
    }
  }
  return false;
}

void ThreadPool::State::leave() {
  const uint64_t left = gate.fetch_sub(1, std::memory_order_acq_rel) - 1;
  if ((left & (kOpen | kInsideMask)) != 0) return;
  // The caller may have gone to sleep; the empty critical section orders us after its last look.
  {
    const std::lock_guard lock(mutex);
  }
  done.notify_one();
}

void ThreadPool::State::work_until_stopped(int worker) {
#if defined(__APPLE__)
  // Without a class the scheduler may put the workers on efficiency cores.
  pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0);
#endif
  uint64_t last_loop = 0;
  bool entered = false;
  const auto admitted = [&] {
    entered = enter(last_loop);
    return entered;
  };
  while (true) {
    spin_until([&] { return stopping.load(std::memory_order_relaxed) || admitted(); });
    if (!entered) {
      std::unique_lock lock(mutex);
      ++sleepers;
      work.wait(lock, [&] { return stop || admitted(); });
      --sleepers;
    }
    if (!entered) return;
    drain(worker);
    leave();
    entered = false;
  }
}

void ThreadPool::State::close_and_wait() {
  gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto empty = [&] { return (gate.load(std::memory_order_acquire) & kInsideMask) == 0; };
  if (spin_until(empty)) return;
  std::unique_lock lock(mutex);
  done.wait(lock, empty);
}

/// Where other programs have the other processors, the scheduler wakes a worker on the caller's, to
/// which it is nearest. There it can do nothing but wait for the caller to finish alone: two
/// threads decoded a 110M model no faster than one for seconds on end. So workers run anywhere but
/// there. A caller that has moved takes the next processor from them when it next wakes one.
void ThreadPool::State::keep_off_the_caller() {
  const int here = current_processor();
  if (here == kept_off || here < 0 || here >= static_cast<int>(processors.size())) return;
  ProcessorSet others = processors;
  others.reset(static_cast<size_t>(here));
  if (others.none()) return;
  for (std::thread& worker : workers) allow_processors(worker, others);
  kept_off = here;
}

void ThreadPool::State::shut_down() {
  {
    const std::lock_guard lock(mutex);
    stop = true;
  }
  stopping.store(true, std::memory_order_relaxed);
  work.notify_all();
  for (std::thread& worker : workers) worker.join();
}

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  CHECK(threads >= 1 && static_cast<uint64_t>(threads) <= kInsideMask);
  state_->processors = allowed_processors();
  try {
    for (int worker = 1; worker < threads; ++worker)
      state_->workers.emplace_back([s = state_.get(), worker] { s->work_until_stopped(worker); });
  } catch (const std::bad_alloc&) {
    state_->shut_down();  // those that did start
    throw;
  } catch (const std::system_error& error) {
    state_->shut_down();
    throw Error(ErrorCode::kInsufficientMemory, "cannot start a worker thread",
                {{"reason", error.what()}, {"expected", std::to_string(threads) + " threads"}});
  }
}

ThreadPool::~ThreadPool() { state_->shut_down(); }

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

int ThreadPool::default_threads() { return performance_cores(); }

void ThreadPool::run(int64_t count, int64_t grain, TaskRef task) {
  CHECK(grain >= 1);
  if (count <= 0) return;
  State& s = *state_;
  CHECK(!s.busy.exchange(true, std::memory_order_acquire));
  struct Release {
    std::atomic<bool>& busy;
    ~Release() { busy.store(false, std::memory_order_release); }
  } release{s.busy};

  if (s.workers.empty() || count <= grain) {
    task.call(task.self, {0, count, 0});
    return;
  }
  const int64_t shares = threads() * kPiecesPerThread;
  const int64_t grains = (count - 1) / grain + 1;
  s.task = task;
  s.count = count;
  s.piece = ((grains - 1) / shares + 1) * grain;
  s.next.store(0, std::memory_order_relaxed);
  const uint64_t loop = (s.gate.load(std::memory_order_relaxed) >> kLoopShift) + 1;
  s.gate.store(loop << kLoopShift | kOpen, std::memory_order_release);

  // Workers count themselves as sleepers under the mutex before their last look at the gate, so
  // either they saw it open or we see them here.
  int64_t wake = 0;
  {
    const std::lock_guard lock(s.mutex);
    wake = std::min<int64_t>(s.sleepers, (count - 1) / s.piece);
  }
  if (wake > 0) s.keep_off_the_caller();
  for (; wake > 0; --wake) s.work.notify_one();

  s.drain(0);
  s.close_and_wait();
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace subbit
