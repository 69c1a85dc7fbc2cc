// Stack switching by hand for x86-64 and arm64: swapcontext would make two system calls a switch,
// and kernels switch millions of times.
#include "support/metal_on_cpu/fiber.h"

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define SUBBIT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SUBBIT_ASAN 1
#endif
#endif

#if defined(SUBBIT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the callee's registers and stack pointer at *save, takes on those at `load`.
extern "C" void subbit_switch_stack(void** save, void* load);

#if defined(__APPLE__)
#define SUBBIT_SWITCH_STACK "_subbit_switch_stack"
#else
#define SUBBIT_SWITCH_STACK "subbit_switch_stack"
#endif

#if defined(__x86_64__)
#define SUBBIT_SWITCH_BODY                                                               \
  "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; mov %rsp, (%rdi)\n" \
  "mov %rsi, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n"
#elif defined(__aarch64__)
#define SUBBIT_SWITCH_BODY                                \
  "sub sp, sp, #160\n"                                    \
  "stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n"    \
  "stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"   \
  "stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n"   \
  "stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n"    \
  "stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n" \
  "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"              \
  "ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n"    \
  "ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"   \
  "ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n"   \
  "ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n"    \
  "ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n" \
  "add sp, sp, #160\n ret\n"
#else
#error "metal_on_cpu switches stacks on x86-64 and arm64"
#endif

asm(".text\n.p2align 2\n.globl " SUBBIT_SWITCH_STACK "\n" SUBBIT_SWITCH_STACK
    ":\n" SUBBIT_SWITCH_BODY);

namespace subbit::metal_on_cpu {
namespace {

// Kernels keep little on the stack; sanitizers and unoptimized builds a few times as much.
constexpr size_t kStackBytes = 64 * 1024;

/// Whom the trampoline belongs to; set right before the first switch into a fiber.
thread_local Fiber* starting = nullptr;

}  // namespace

Fiber::Fiber() : stack_(new std::byte[kStackBytes]) {}
Fiber::~Fiber() = default;

void Fiber::start(void (*entry)(void*), void* argument) {
#if defined(SUBBIT_ASAN)
  __asan_unpoison_memory_region(stack_.get(), kStackBytes);
#endif
  entry_ = entry;
  argument_ = argument;
  done_ = false;
  sanitizer_.own_fake_stack = nullptr;
  const auto top = (reinterpret_cast<uintptr_t>(stack_.get()) + kStackBytes) & ~uintptr_t{15};
  auto* words = reinterpret_cast<void**>(top);
  auto* const entry_point = reinterpret_cast<void*>(&Fiber::trampoline);
#if defined(__x86_64__)
  // As after a call: return address, then six registers; the stack pointer of the callee is off
  // 16 bytes by 8.
  words -= 8;
  std::memset(words, 0, 8 * sizeof(void*));
  words[6] = entry_point;
#else
  words -= 20;
  std::memset(words, 0, 20 * sizeof(void*));
  words[11] = entry_point;  // x30
#endif
  stack_pointer_ = words;
}

void Fiber::trampoline() {
  Fiber* const self = starting;
#if defined(SUBBIT_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &self->sanitizer_.caller_bottom,
                                  &self->sanitizer_.caller_size);
#endif
  self->entry_(self->argument_);
  self->done_ = true;
  self->switch_out();
}

void Fiber::switch_out() {
#if defined(SUBBIT_ASAN)
  // A fiber that is done gives its fake stack up.
  __sanitizer_start_switch_fiber(done_ ? nullptr : &sanitizer_.own_fake_stack,
                                 sanitizer_.caller_bottom, sanitizer_.caller_size);
#endif
  subbit_switch_stack(&stack_pointer_, caller_pointer_);
#if defined(SUBBIT_ASAN)
  __sanitizer_finish_switch_fiber(sanitizer_.own_fake_stack, &sanitizer_.caller_bottom,
                                  &sanitizer_.caller_size);
#endif
}

void Fiber::yield() { switch_out(); }

void Fiber::resume() {
  starting = this;
#if defined(SUBBIT_ASAN)
  __sanitizer_start_switch_fiber(&sanitizer_.caller_fake_stack, stack_.get(), kStackBytes);
#endif
  subbit_switch_stack(&caller_pointer_, stack_pointer_);
#if defined(SUBBIT_ASAN)
  __sanitizer_finish_switch_fiber(sanitizer_.caller_fake_stack, nullptr, nullptr);
#endif
}

}  // namespace subbit::metal_on_cpu
