// The hint, on the whole pages inside the memory: the system refuses any other beginning.
#include "base/huge_pages.h"

#include <cstdint>
#include <sys/mman.h>

#include "base/reserved_memory.h"

namespace subbit {

void prefer_huge_pages([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uint64_t page = page_bytes();
  const auto address = reinterpret_cast<uint64_t>(from);
  const uint64_t begin = (address + page - 1) / page * page;
  const uint64_t end = (address + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace subbit
