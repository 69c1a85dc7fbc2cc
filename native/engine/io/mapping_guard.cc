// The handler may run in any thread at any instruction, so it takes no lock and allocates nothing:
// it walks a list whose entries are published whole, used again and never freed. The rest of a
// mapping from the lost page on is replaced in one call, because a file that lost a page to a cut
// has lost all behind it; jumping out of the kernel instead would leave its threads and locks as
// they were.
#include "io/mapping_guard.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

namespace subbit {

/// An entry with `end` 0 is free. `begin` is written before `end`, and `end` taken back first.
struct MappingGuard::Watch {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> broken{false};
  Watch* next = nullptr;  // set before the entry is published
};

struct MappingGuard::Handler {
  static void on_bus_error(int number, siginfo_t* info, void* context);
  static Watch* find(uintptr_t address);
  static void pass_on(int number, siginfo_t* info, void* context);
  static void install();
  static void remove();

  static inline std::atomic<Watch*> first{nullptr};
  static inline uintptr_t page = 0;
  static inline struct sigaction before = {};
  static inline std::mutex lock;  // of guards coming and going; the handler never takes it
  static inline int guards = 0;
  static inline bool installed = false;
};

MappingGuard::Watch* MappingGuard::Handler::find(uintptr_t address) {
  for (Watch* watch = first.load(); watch != nullptr; watch = watch->next) {
    if (address < watch->end.load() && address >= watch->begin.load()) return watch;
  }
  return nullptr;
}

void MappingGuard::Handler::on_bus_error(int number, siginfo_t* info, void* context) {
  const int error = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  Watch* watch = find(address);
  if (watch == nullptr) return pass_on(number, info, context);
  watch->broken = true;
  const uintptr_t from = address / page * page;
  const size_t bytes = watch->end.load() - from;
  const void* zeros = mmap(reinterpret_cast<void*>(from), bytes, PROT_READ,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  errno = error;
  if (zeros == MAP_FAILED) pass_on(number, info, context);
}

/// A fault that is not ours: as if this handler were not there.
void MappingGuard::Handler::pass_on(int number, siginfo_t* info, void* context) {
  if ((before.sa_flags & SA_SIGINFO) != 0) return before.sa_sigaction(number, info, context);
  if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
    // The access is tried again, and ends the process as it would have.
    sigaction(number, &before, nullptr);
    return;
  }
  before.sa_handler(number);
}

void MappingGuard::Handler::install() {
  if (installed) return;
  page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  // A thread that has a stack for signals handles this one there too.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  installed = sigaction(SIGBUS, &action, &before) == 0;
}

/// Unless somebody put his own over it, who may call ours as long as he likes: it then stays where
/// it is, for installing it again above one that calls it would be a circle.
void MappingGuard::Handler::remove() {
  struct sigaction now = {};
  sigaction(SIGBUS, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) == 0 || now.sa_sigaction != on_bus_error) return;
  installed = sigaction(SIGBUS, &before, nullptr) != 0;
}

MappingGuard::MappingGuard(std::span<const std::byte> mapping) {
  const std::lock_guard<std::mutex> held(Handler::lock);
  Watch* watch = Handler::first.load();
  while (watch != nullptr && watch->end != 0) watch = watch->next;
  if (watch == nullptr) {
    watch = new Watch;
    watch->next = Handler::first.load();
    Handler::first = watch;
  }
  const auto begin = reinterpret_cast<uintptr_t>(mapping.data());
  watch->broken = false;
  watch->begin = begin;
  watch->end = begin + mapping.size();
  watch_ = watch;
  Handler::install();
  ++Handler::guards;
}

MappingGuard::~MappingGuard() {
  const std::lock_guard<std::mutex> held(Handler::lock);
  watch_->end = 0;
  if (--Handler::guards == 0) Handler::remove();
}

bool MappingGuard::is_broken() const { return watch_->broken; }

}  // namespace subbit
