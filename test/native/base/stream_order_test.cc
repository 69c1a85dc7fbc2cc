// What was read after what: learnt in one round, kept through changes, bounded.
#include "base/stream_order.h"

#include <vector>

#include "support/test.h"

namespace subbit {
namespace {

const std::byte kMemory[100] = {};

Stream stream(int i) { return {kMemory + i, 64, 8}; }

/// The numbers of what `order` expects after each of `read`; -1 for nothing.
std::vector<int> expected_after(StreamOrder& order, const std::vector<int>& read) {
  std::vector<int> expected;
  for (const int i : read) {
    const Stream next = order.note(stream(i));
    expected.push_back(next.base == nullptr ? -1 : static_cast<int>(next.base - kMemory));
  }
  return expected;
}

TEST(stream_order_expects_what_came_after_the_last_time) {
  StreamOrder order;
  expected_after(order, {0, 1, 2, 3});
  EXPECT(expected_after(order, {0, 1, 2, 3}) == (std::vector<int>{1, 2, 3, 0}));
  EXPECT(expected_after(order, {0, 1, 2, 3}) == (std::vector<int>{1, 2, 3, 0}));
}

TEST(stream_order_learns_another_order_from_where_it_differs) {
  StreamOrder order;
  expected_after(order, {0, 1, 2, 3, 0, 1, 2, 3});
  EXPECT(expected_after(order, {0, 1, 5, 6}) == (std::vector<int>{1, 2, -1, -1}));
  EXPECT(expected_after(order, {0, 1, 5, 6}) == (std::vector<int>{1, 5, 6, 0}));
  // One round that ends early teaches nothing; one that goes elsewhere does.
  EXPECT(expected_after(order, {0, 1}) == (std::vector<int>{1, 5}));
  EXPECT(expected_after(order, {0, 1, 7}) == (std::vector<int>{1, 5, -1}));
  EXPECT(expected_after(order, {0, 1, 7}) == (std::vector<int>{1, 7, 0}));
}

TEST(stream_order_leaves_out_what_came_before_the_round_but_once) {
  StreamOrder order;
  expected_after(order, {8, 9, 0, 1, 2});
  EXPECT(expected_after(order, {0, 1, 2}) == (std::vector<int>{1, 2, 0}));
}

TEST(stream_order_is_of_one_stream_when_there_is_but_one) {
  StreamOrder order;
  EXPECT(expected_after(order, {4, 4, 4}) == (std::vector<int>{-1, 4, 4}));
}

TEST(stream_order_forgets_rather_than_grow_without_end) {
  StreamOrder order;
  std::vector<std::byte> memory(10000);
  for (const std::byte& place : memory) order.note({&place, 64, 8});
  for (int round = 0; round < 2; ++round) expected_after(order, {0, 1});
  EXPECT(expected_after(order, {0, 1}) == (std::vector<int>{1, 0}));
}

}  // namespace
}  // namespace subbit
