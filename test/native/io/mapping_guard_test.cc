// Lost pages: what ends a process with a bare "Bus error" where nobody guards. Each case that may
// end one runs in a child.
#include "io/mapping_guard.h"

#include <atomic>
#include <csignal>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "io/mapped_file.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

constexpr size_t kPages = 6;

size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

/// A file of `kPages` pages of ones.
std::string file_of_ones() {
  const std::string path = test::temporary_directory() + "/ones";
  test::write_file(path, std::string(kPages * page(), '\1'));
  return path;
}

void cut(const std::string& path, size_t bytes) {
  EXPECT_EQ(truncate(path.c_str(), static_cast<off_t>(bytes)), 0);
}

/// The sum of a mapping's bytes, as no compiler leaves it out.
size_t sum(std::span<const std::byte> bytes) {
  size_t total = 0;
  for (const std::byte& byte : bytes)
    total += static_cast<size_t>(*static_cast<const volatile std::byte*>(&byte));
  return total;
}

TEST(pages_lost_to_a_cut_read_as_zeros_and_the_file_says_so) {
  const std::string path = file_of_ones();
  const MappedFile file(path);
  EXPECT_EQ(sum(file.bytes()), kPages * page());
  // Without its name no look at size and time could tell.
  const int handle = open(path.c_str(), O_RDWR | O_CLOEXEC);
  unlink(path.c_str());
  EXPECT_EQ(ftruncate(handle, static_cast<off_t>(page())), 0);
  file.check_unchanged();  // nobody has read a lost page
  EXPECT_EQ(sum(file.bytes()), page());
  EXPECT_ERROR(ErrorCode::kFileError, "was lost while it was in use", file.check_unchanged());
  EXPECT_EQ(sum(file.bytes()), page());
  close(handle);
}

TEST(threads_may_meet_lost_pages_at_once) {
  const std::string path = file_of_ones();
  const MappedFile file(path);
  cut(path, page());
  std::atomic<size_t> total{0};
  std::vector<std::thread> threads;
  for (size_t first = 1; first < kPages; ++first)
    threads.emplace_back([&, first] { total += sum(file.bytes().subspan(first * page())); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(total.load(), size_t{0});
  EXPECT_ERROR(ErrorCode::kFileError, "was lost", file.check_unchanged());
}

TEST(a_file_that_lost_nothing_is_not_blamed_for_another) {
  const std::string path = file_of_ones();
  const MappedFile whole(path);
  const std::string other_path = file_of_ones();
  const MappedFile other(other_path);
  cut(other_path, 0);
  EXPECT_EQ(sum(other.bytes()), size_t{0});
  EXPECT_ERROR(ErrorCode::kFileError, "was lost", other.check_unchanged());
  whole.check_unchanged();
  EXPECT_EQ(sum(whole.bytes()), kPages * page());
}

/// Reads a lost page of a mapping that no guard stands over.
void fault_elsewhere() {
  const std::string path = file_of_ones();
  const int handle = open(path.c_str(), O_RDWR | O_CLOEXEC);
  void* address = mmap(nullptr, page(), PROT_READ, MAP_SHARED, handle, 0);
  EXPECT_EQ(ftruncate(handle, 0), 0);
  sum({static_cast<const std::byte*>(address), page()});
}

/// How a child that runs `work` ends: its exit status, or minus the signal.
template <typename Work>
int ending_of(const Work& work) {
  const pid_t child = fork();
  if (child == 0) {
    // What the system says of a crash is no part of the test's output.
    close(STDERR_FILENO);
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(faults_of_others_end_the_process_as_they_would_without_us) {
  const std::string path = file_of_ones();
  const int ending = ending_of([&] {
    const MappedFile file(path);
    fault_elsewhere();
  });
  // A sanitizer has a handler of its own, which exits.
  EXPECT(ending == -SIGBUS || ending > 0);
}

TEST(a_handler_that_was_there_before_gets_the_faults_of_others) {
  const std::string path = file_of_ones();
  const int ending = ending_of([&] {
    struct sigaction theirs = {};
    theirs.sa_handler = [](int) { _exit(7); };
    sigaction(SIGBUS, &theirs, nullptr);
    const MappedFile file(path);
    cut(path, 0);
    if (sum(file.bytes()) != 0) _exit(1);
    fault_elsewhere();
  });
  EXPECT_EQ(ending, 7);
}

TEST(the_last_guard_takes_its_handler_away) {
  const auto handler = [] {
    struct sigaction now = {};
    sigaction(SIGBUS, nullptr, &now);
    return now.sa_sigaction;
  };
  const auto before = handler();
  const std::string path = file_of_ones();
  {
    const MappedFile first(path);
    const auto ours = handler();
    EXPECT(ours != before);
    const MappedFile second(path);
    EXPECT(handler() == ours);
  }
  EXPECT(handler() == before);
}

TEST(a_handler_put_over_ours_that_calls_it_makes_no_circle) {
  const std::string path = file_of_ones();
  const int ending = ending_of([&] {
    static struct sigaction ours = {};
    {
      const MappedFile file(path);
      struct sigaction over = {};
      over.sa_flags = SA_SIGINFO;
      over.sa_sigaction = [](int number, siginfo_t* info, void* context) {
        ours.sa_sigaction(number, info, context);
      };
      sigaction(SIGBUS, &over, &ours);
    }
    const MappedFile again(path);
    cut(path, 0);
    if (sum(again.bytes()) != 0) _exit(99);
    alarm(20);  // a circle would not end
    fault_elsewhere();
  });
  EXPECT(ending == -SIGBUS || (ending > 0 && ending != 99));
}

}  // namespace
}  // namespace subbit
