// A hint about pages must change nothing but speed, wherever the memory begins and ends.
#include "base/huge_pages.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "support/test.h"

namespace subbit {
namespace {

TEST(memory_of_which_huge_pages_were_asked_keeps_what_it_holds) {
  std::vector<uint32_t> numbers(3 << 20);
  std::iota(numbers.begin(), numbers.end(), 0u);
  const auto* bytes = reinterpret_cast<const char*>(numbers.data());
  prefer_huge_pages(bytes, numbers.size() * sizeof(uint32_t));
  prefer_huge_pages(bytes + 1, 5 << 20);  // neither begins nor ends with a page
  prefer_huge_pages(bytes + 1, 100);      // no whole page
  prefer_huge_pages(bytes, 0);
  prefer_huge_pages(nullptr, 0);
  bool same = true;
  for (size_t i = 0; i < numbers.size(); ++i) same = same && numbers[i] == i;
  EXPECT(same);
}

}  // namespace
}  // namespace subbit
