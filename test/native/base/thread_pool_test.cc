// The pool: every index once, errors once, no thread left waiting.
#include "base/thread_pool.h"

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/processor.h"
#include "support/test.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace subbit {
namespace {

TEST(thread_pool_visits_every_index_exactly_once) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 8, 9, 63, 64, 65, 1000, 4097}) {
      for (const int64_t grain : {1, 2, 8, 100, 5000}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        std::atomic<bool> well_cut{true};
        pool.parallel_for(count, grain, [&](Range range) {
          const bool ends_whole = range.end == count || range.end % grain == 0;
          if (range.begin % grain != 0 || !ends_whole) well_cut = false;
          if (range.begin >= range.end || range.worker < 0 || range.worker >= threads)
            well_cut = false;
          for (int64_t i = range.begin; i < range.end; ++i) ++visits[static_cast<size_t>(i)];
        });
        bool once = true;
        for (const auto& n : visits) once = once && n == 1;
        EXPECT(once);
        EXPECT(well_cut);
      }
    }
  }
}

TEST(thread_pool_gives_each_worker_its_own_number) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> shared{false};
  for (int round = 0; round < 50; ++round) {
    pool.parallel_for(64, 1, [&](Range range) {
      auto& mine = inside[static_cast<size_t>(range.worker)];
      if (mine.fetch_add(1) != 0) shared = true;
      std::this_thread::yield();
      mine.fetch_sub(1);
    });
  }
  EXPECT(!shared);
}

TEST(thread_pool_makes_what_tasks_wrote_visible_to_the_caller) {
  ThreadPool pool(3);
  std::vector<int64_t> values(1000, 0);
  for (int round = 0; round < 2000; ++round)
    pool.parallel_for(1000, 10, [&](Range range) {
      for (int64_t i = range.begin; i < range.end; ++i) values[static_cast<size_t>(i)] += i;
    });
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), int64_t{2000} * 499500);
}

TEST(thread_pool_wakes_workers_that_have_gone_to_sleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    // The second piece is only finished if a second thread takes it while the first waits.
    std::atomic<int> arrived{0};
    bool met = true;
    pool.parallel_for(2, 1, [&](Range) {
      ++arrived;
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (arrived < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
      if (arrived < 2) met = false;
    });
    EXPECT(met);
  }
}

/// Whether a thread took from the front of its own pieces [own, own + 8), half of what was left at
/// a time, then single ones of others from the end.
bool front_then_end(const std::vector<Range>& taken, int64_t own) {
  size_t i = 0;
  int64_t front = own;
  for (; i < taken.size() && taken[i].begin == front && front < own + 8; ++i) {
    const int64_t count = taken[i].end - taken[i].begin;
    if (count < 1 || count > (own + 8 - front + 1) / 2) return false;
    front += count;
  }
  for (size_t j = i; j < taken.size(); ++j) {
    if (taken[j].begin >= own && taken[j].begin < own + 8) return false;
    if (taken[j].end != taken[j].begin + 1) return false;
    if (j > i && taken[j].end != taken[j - 1].begin) return false;
  }
  return true;
}

TEST(thread_pool_gives_a_thread_the_same_run_in_every_loop) {
  // What a thread prefetches while it waits is of use only if the thread then reads it.
  ThreadPool pool(2);
  for (int round = 0; round < 100; ++round) {
    // A worker that sleeps comes late and finds the caller at the end of its run.
    if (round % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    std::vector<Range> taken[2];
    pool.parallel_for(16, 1, [&](Range range) {
      taken[range.worker].push_back(range);
      const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(round % 8);
      while (std::chrono::steady_clock::now() < end) continue;
    });
    EXPECT(front_then_end(taken[0], 0));
    EXPECT(front_then_end(taken[1], 8));
  }
}

TEST(thread_pool_says_what_a_thread_will_stream_next) {
  // A kernel that prefetched past its run would fetch what another thread reads, and begin the next
  // matrix cold.
  constexpr int64_t kCount = 16;
  const std::vector<std::byte> streams[2] = {std::vector<std::byte>(kCount * 64),
                                             std::vector<std::byte>(kCount * 32)};
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    const auto bytes_each = [&](int s) { return std::ssize(streams[s]) / kCount; };
    const auto front = [&](int worker) { return kCount * worker / threads; };
    for (int loop = 0; loop < 100; ++loop) {
      const int now = loop % 2;
      std::vector<Range> taken[2];
      const auto task = [&](Range range) {
        taken[range.worker].push_back(range);
        // So that the worker comes in time.
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(5);
        while (std::chrono::steady_clock::now() < end) continue;
      };
      pool.parallel_for(kCount, 1, task, {streams[now].data(), bytes_each(now)});
      for (int worker = 0; worker < threads; ++worker) {
        // Nothing is known before the first stream has come again.
        const std::byte* next = streams[1 - now].data() + front(worker) * bytes_each(1 - now);
        if (loop < 2) next = nullptr;
        for (const Range& range : taken[worker]) {
          const bool own = range.begin >= front(worker) && range.begin < front(worker + 1);
          // Own pieces lie one behind another; those of others are taken backwards.
          const std::byte* goes_on =
              own ? nullptr : streams[now].data() + (range.begin - 1) * bytes_each(now);
          EXPECT(range.then == next || range.then == goes_on);
          if (threads == 1) EXPECT(range.then == next);
        }
      }
    }
    pool.parallel_for(kCount, 1, [&](Range range) { EXPECT(range.then == nullptr); });
  }
}

TEST(thread_pool_may_be_told_of_memory_that_is_gone) {
  ThreadPool pool(2);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::byte> memory(static_cast<size_t>(1 + round) * 4096);
    std::atomic<int64_t> sum{0};
    const auto task = [&](Range range) { sum += range.end - range.begin; };
    pool.parallel_for(16, 1, task, {memory.data(), 256});
    EXPECT_EQ(sum.load(), 16);
  }
}

#if defined(__linux__)
TEST(thread_pool_workers_leave_the_caller_its_processor) {
  // Where the scheduler had woken them there, two threads decoded no faster than one.
  const ProcessorSet all = allowed_processors();
  if (all.count() < 2) return;
  ThreadPool pool(3);
  std::thread caller([&] {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    CPU_SET(sched_getcpu(), &mine);
    EXPECT_EQ(sched_setaffinity(0, sizeof(mine), &mine), 0);
    const int here = sched_getcpu();
    // Workers are told when they are next woken, so not before they have slept.
    std::atomic<bool> told{false};
    std::atomic<int> on_mine{0};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    for (int after = 0; after < 20 && std::chrono::steady_clock::now() < deadline; after += told) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const bool were_told = told;
      pool.parallel_for(8, 1, [&](Range range) {
        if (range.worker == 0) return std::this_thread::sleep_for(std::chrono::microseconds(200));
        if (!allowed_processors()[static_cast<size_t>(here)]) told = true;
        if (were_told && sched_getcpu() == here) ++on_mine;
      });
    }
    EXPECT(told);
    EXPECT_EQ(on_mine.load(), 0);
  });
  caller.join();
}
#endif

TEST(thread_pool_rethrows_one_error_and_works_afterwards) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      int caught = 0;
      try {
        pool.parallel_for(100, 1, [&](Range range) {
          if (round % 2 == 0 || range.begin % 3 == 1 || range.end == 100)
            throw std::runtime_error("planned");
        });
      } catch (const std::runtime_error&) {
        ++caught;
      }
      EXPECT_EQ(caught, 1);
      std::atomic<int64_t> sum{0};
      pool.parallel_for(100, 1, [&](Range range) { sum += range.end - range.begin; });
      EXPECT_EQ(sum.load(), 100);
    }
  }
}

TEST(thread_pool_refuses_to_be_entered_from_a_task) {
  ThreadPool pool(2);
  EXPECT_ERROR(ErrorCode::kInternal, "busy",
               pool.parallel_for(8, 1, [&](Range) { pool.parallel_for(8, 1, [](Range) {}); }));
  EXPECT_ERROR(ErrorCode::kInternal, "grain", pool.parallel_for(8, 0, [](Range) {}));
  EXPECT_ERROR(ErrorCode::kInternal, "threads", ThreadPool none(0));
}

TEST(thread_pool_starts_and_ends_many_times) {
  for (int round = 0; round < 200; ++round) {
    ThreadPool pool(1 + round % 4);
    if (round % 3 != 0) pool.parallel_for(16, 1, [](Range) {});
  }
}

TEST(thread_pool_default_is_within_the_machine) {
  const int threads = ThreadPool::default_threads();
  EXPECT(threads >= 1);
  const auto concurrency = static_cast<int>(std::thread::hardware_concurrency());
  if (concurrency > 0) EXPECT(threads <= concurrency);
  EXPECT_EQ(threads, performance_cores());
}

}  // namespace
}  // namespace subbit
