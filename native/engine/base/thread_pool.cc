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

// Pieces per thread: threads end within the time of one of each other, 3 % of a share.
constexpr int64_t kPiecesPerThread = 32;
constexpr int kTakenBits = 8;  // of a count of a thread's pieces
constexpr uint64_t kTakenMask = (uint64_t{1} << kTakenBits) - 1;

// What a thread prefetches at most of what it will read next: a quarter of a second-level cache of
// 1 MiB. Decoding, bound by memory, gains 2 to 3 % by it on two threads; with 64 KiB 1 % less, with
// 128 and 512 as much.
constexpr int64_t kMostAhead = 256 << 10;
constexpr int64_t kPrefetchLine = 64;
constexpr int kPrefetchLines = 16;  // between two looks at what is waited for: some 50 ns

void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // "yield" is a no-op on most cores; isb takes about as long as x86's pause
#endif
}

/// What a thread is to bring into its second-level cache while it waits.
struct Ahead {
  const std::byte* stream = nullptr;
  const std::byte* from = nullptr;
  int64_t bytes = 0;

  /// Says whether there was anything left.
  bool prefetch_some() {
    if (bytes <= 0) return false;
    for (int line = 0; line < kPrefetchLines; ++line)
      __builtin_prefetch(from + line * kPrefetchLine, 0, 2);
    from += kPrefetchLines * kPrefetchLine;
    bytes -= kPrefetchLines * kPrefetchLine;
    return true;
  }
};

/// Waits for `ready` for at most kSpinTime; says whether it came.
template <typename Ready>
bool spin_until(Ahead& ahead, Ready&& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      if (!ahead.prefetch_some()) pause_processor();
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
  // Of each thread's run of pieces: the loop, how many others have taken from its end, how many it
  // has taken from its front. An older loop means none, so that nobody has to reset them.
  struct alignas(128) Taken {
    std::atomic<uint64_t> in_loop{0};
  };
  std::vector<Taken> taken;

  // The current loop; written only while nobody is inside.
  TaskRef task;
  int64_t count = 0;
  int64_t piece = 0;
  int64_t pieces = 0;
  uint64_t loop = 0;
  Stream current;   // what it reads, in pieces
  Stream upcoming;  // what is likely to be read next, in its own pieces

  StreamOrder order;  // the caller's
  Ahead caller_ahead;

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

  bool take(int owner, int worker, Range& pieces_taken);
  void drain(int worker);
  const std::byte* front_of(Stream stream, int worker) const;
  void look_ahead(Ahead& ahead, int worker) const;
  void work_until_stopped(int worker);
  bool enter(uint64_t& last_loop);
  void leave();
  void close_and_wait();
  void keep_off_the_caller();
  void shut_down();
};

/// Takes of an owner's pieces, if there are any left: itself the first half, others the last one.
/// So what a thread reads lies side by side.
bool ThreadPool::State::take(int owner, int worker, Range& pieces_taken) {
  const int64_t threads = std::ssize(taken);
  const int64_t begin = owner * pieces / threads;
  const int64_t end = (owner + 1) * pieces / threads;
  std::atomic<uint64_t>& place = taken[static_cast<size_t>(owner)].in_loop;
  uint64_t seen = place.load(std::memory_order_relaxed);
  while (true) {
    const uint64_t before = seen >> (2 * kTakenBits) == loop ? seen : loop << (2 * kTakenBits);
    const auto front = static_cast<int64_t>(before & kTakenMask);
    const auto back = static_cast<int64_t>(before >> kTakenBits & kTakenMask);
    const int64_t left = end - begin - front - back;
    if (left <= 0) return false;
    const bool own = owner == worker;
    const int64_t count = own ? (left + 1) / 2 : 1;
    const int64_t first = own ? begin + front : end - 1 - back;
    const std::byte* then = nullptr;
    if (current.base != nullptr && left == count) {
      then = front_of(upcoming, worker);
    } else if (current.base != nullptr && !own) {
      then = current.base + (first - 1) * current.bytes_each;
    }
    pieces_taken = {first, first + count, worker, then};
    const uint64_t step = own ? uint64_t{1} : uint64_t{1} << kTakenBits;
    if (place.compare_exchange_weak(seen, before + step * static_cast<uint64_t>(count),
                                    std::memory_order_relaxed))
      return true;
  }
}

/// The worker's own pieces, then those that others have left. The first exception takes all away.
void ThreadPool::State::drain(int worker) {
  const int threads = static_cast<int>(taken.size());
  try {
    for (int i = 0; i < threads; ++i) {
      const int owner = (worker + i) % threads;
      for (Range run; take(owner, worker, run);) {
        run.begin *= piece;
        run.end = std::min(run.end * piece, count);
        task.call(task.self, run);
      }
    }
  } catch (...) {
    Range left;
    for (int owner = 0; owner < threads; ++owner)
      while (take(owner, worker, left)) continue;
    const std::lock_guard lock(mutex);
    if (!error) error = std::current_exception();
  }
}

/// Where the worker's run of a stream begins, and the one's before him ends; null where there is no
/// stream.
const std::byte* ThreadPool::State::front_of(Stream stream, int worker) const {
  if (stream.base == nullptr) return nullptr;
  return stream.base + worker * stream.count / std::ssize(taken) * stream.bytes_each;
}

/// Sets `ahead` on what the worker will read first of the stream that comes next. It stays where it
/// is as long as that does not change.
void ThreadPool::State::look_ahead(Ahead& ahead, int worker) const {
  if (upcoming.base == ahead.stream) return;
  ahead = {upcoming.base, nullptr, 0};
  if (upcoming.base == nullptr) return;
  ahead.from = front_of(upcoming, worker);
  ahead.bytes = std::min<int64_t>(kMostAhead, front_of(upcoming, worker + 1) - ahead.from);
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
  Ahead ahead;
  const auto admitted = [&] {
    entered = enter(last_loop);
    return entered;
  };
  while (true) {
    spin_until(ahead, [&] { return stopping.load(std::memory_order_relaxed) || admitted(); });
    if (!entered) {
      std::unique_lock lock(mutex);
      ++sleepers;
      work.wait(lock, [&] { return stop || admitted(); });
      --sleepers;
    }
    if (!entered) return;
    look_ahead(ahead, worker);
    drain(worker);
    leave();
    entered = false;
  }
}

void ThreadPool::State::close_and_wait() {
  gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto empty = [&] { return (gate.load(std::memory_order_acquire) & kInsideMask) == 0; };
  if (spin_until(caller_ahead, empty)) return;
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
  state_->taken = std::vector<State::Taken>(static_cast<size_t>(threads));
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

void ThreadPool::run(int64_t count, int64_t grain, TaskRef task, Stream reads) {
  CHECK(grain >= 1);
  if (count <= 0) return;
  State& s = *state_;
  CHECK(!s.busy.exchange(true, std::memory_order_acquire));
  struct Release {
    std::atomic<bool>& busy;
    ~Release() { busy.store(false, std::memory_order_release); }
  } release{s.busy};

  if (s.workers.empty() || count <= grain) {
    if (reads.base != nullptr) s.upcoming = s.order.note({reads.base, reads.bytes_each, count});
    task.call(task.self, {0, count, 0, reads.base == nullptr ? nullptr : s.upcoming.base});
    return;
  }
  const int64_t shares = threads() * kPiecesPerThread;
  const int64_t grains = (count - 1) / grain + 1;
  s.task = task;
  s.count = count;
  s.piece = ((grains - 1) / shares + 1) * grain;
  s.pieces = (count - 1) / s.piece + 1;
  s.loop = (s.gate.load(std::memory_order_relaxed) >> kLoopShift) + 1;
  s.current = {reads.base, reads.bytes_each * s.piece, s.pieces};
  if (reads.base != nullptr) {
    s.upcoming = s.order.note(s.current);
    s.look_ahead(s.caller_ahead, 0);
  }
  s.gate.store(s.loop << kLoopShift | kOpen, std::memory_order_release);

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
