// Fibers: functions with stacks of their own that hand control back and forth with whoever runs
// them, in a few nanoseconds, on one thread. A GPU thread is one of them.
#pragma once

#include <cstddef>
#include <memory>

namespace subbit::metal_on_cpu {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next resume() calls `entry(argument)` from its start; what ran before is abandoned, its
  /// frames not unwound.
  void start(void (*entry)(void*), void* argument);
  /// Runs the fiber until it yields or its entry returns.
  void resume();
  bool done() const { return done_; }
  /// From inside: back to whoever called resume().
  void yield();

 private:
  static void trampoline();
  void switch_out();

  std::unique_ptr<std::byte[]> stack_;
  void* stack_pointer_ = nullptr;   // of the fiber while it is not running
  void* caller_pointer_ = nullptr;  // of the caller while it is
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool done_ = true;
  // What AddressSanitizer wants to know about stacks, where it is there to be told.
  struct SanitizerView {
    void* own_fake_stack = nullptr;
    void* caller_fake_stack = nullptr;
    const void* caller_bottom = nullptr;
    size_t caller_size = 0;
  } sanitizer_;
};

}  // namespace subbit::metal_on_cpu
