// A page of a mapped file can be lost: the file was cut short, or its disk fails. Reading it raises
// SIGBUS, which ends a process without a word. While a MappingGuard stands over a mapping, a lost
// page reads as zeros instead, in whatever thread and however deep in a kernel, and the guard
// remembers it: whoever computed with the mapping asks is_broken() before he believes the result.
#pragma once

#include <cstddef>
#include <span>

namespace subbit {

class MappingGuard {
 public:
  /// `mapping` begins on a page and stays mapped while the guard lives. The first guard of a
  /// process installs a handler of SIGBUS, the last one takes it away; faults anywhere else go to
  /// the handler that was there before. Throws std::bad_alloc.
  explicit MappingGuard(std::span<const std::byte> mapping);
  ~MappingGuard();
  MappingGuard(const MappingGuard&) = delete;
  MappingGuard& operator=(const MappingGuard&) = delete;

  /// Whether a page was lost. Never again no, once yes.
  bool is_broken() const;

 private:
  struct Watch;
  struct Handler;
  Watch* watch_;
};

}  // namespace subbit
