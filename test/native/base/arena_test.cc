// The arena: where blocks lie, what is given back, and what happens past the plan.
#include "base/arena.h"

#include <algorithm>

#include "base/buffer.h"
#include "support/test.h"

namespace subbit {
namespace {

TEST(buffers_of_a_scope_lie_in_its_arena_and_outlive_the_scope) {
  Arena arena(4096);
  Buffer<int> before(10);
  {
    Buffer<int> kept;
    {
      const ArenaScope scope(&arena);
      kept = Buffer<int>(100, 7);
      const Buffer<int> local(50);
      EXPECT(arena.in_use() >= 150 * sizeof(int));
      {
        const ArenaScope heap(nullptr);
        const Buffer<int> elsewhere(1000);
        EXPECT(arena.in_use() < 1000 * sizeof(int));
      }
    }
    EXPECT(arena.in_use() >= 400);
    EXPECT_EQ(kept[99], 7);
  }
  EXPECT_EQ(arena.in_use(), uint64_t{0});
  EXPECT(arena.extent() > 0);
  EXPECT_EQ(arena.overflow(), uint64_t{0});
}

TEST(blocks_given_back_in_any_order_are_one_run_again) {
  // Every order of four blocks.
  int order[] = {0, 1, 2, 3};
  do {
    Arena arena(1 << 16);
    void* blocks[4];
    for (void*& block : blocks) block = arena.take(1000);
    for (const int i : order) arena.give(blocks[i], 1000);
    EXPECT_EQ(arena.in_use(), uint64_t{0});
    // One run: the whole reserve can be had, at the lowest address.
    void* whole = arena.take((1 << 16) + 60000);
    EXPECT(whole == blocks[0]);
    arena.give(whole, (1 << 16) + 60000);
  } while (std::next_permutation(order, order + 4));
}

TEST(past_its_reserve_an_arena_serves_from_the_heap_and_counts) {
  Arena arena(1000);
  const ArenaScope scope(&arena);
  Buffer<char> large(1 << 20, 'x');
  EXPECT_EQ(large[(1 << 20) - 1], 'x');
  EXPECT_EQ(arena.overflow(), uint64_t{1 << 20});
}

TEST(a_trimmed_arena_reads_as_zeros_where_nothing_was_out) {
  Arena arena(1 << 20);
  auto* block = static_cast<char*>(arena.take(1 << 20));
  block[1 << 19] = 'x';
  arena.give(block, 1 << 20);
  EXPECT(arena.trim() >= (1 << 20) - 2 * page_bytes());
  block = static_cast<char*>(arena.take(1 << 20));
  EXPECT_EQ(int{block[1 << 19]}, 0);
  arena.give(block, 1 << 20);
}

}  // namespace
}  // namespace subbit
