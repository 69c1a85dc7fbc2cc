// Runs the C++ tests. Usage: engine_tests [substring of a test's name] [share of shares]: with
// "1 4" every fourth of them, beginning with the second, for who runs several at a time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <unistd.h>

#include "support/test.h"

namespace subbit::test {
namespace {

struct Skip {
  std::string reason;
};

int failures_of_case = 0;
std::vector<std::string> temporary_directories;

std::vector<std::function<void()>>& looks() {
  static std::vector<std::function<void()>> all;
  return all;
}

std::filesystem::path test_root() { return std::filesystem::path(SUBBIT_TEST_ROOT); }

}  // namespace

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

void fail(const char* file, int line, const std::string& message) {
  ++failures_of_case;
  std::printf("  %s:%d: %s\n", file, line, message.c_str());
}

void after_each(std::function<void()> look) { looks().push_back(std::move(look)); }

void skip(const std::string& reason) { throw Skip{reason}; }

std::string shared_data(const std::string& relative) {
  const auto root = test_root() / ".." / ".." / "shared" / "data";
  const auto path = (root / relative).lexically_normal();
  if (!std::filesystem::exists(path)) skip("no " + path.string());
  return path.string();
}

std::string fixture(const std::string& relative) {
  return (test_root() / "fixtures" / relative).lexically_normal().string();
}

std::string temporary_directory() {
  auto pattern = (std::filesystem::temp_directory_path() / "subbit-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr)
    throw Error(ErrorCode::kFileError, "no temporary directory");
  temporary_directories.push_back(pattern);
  return pattern;
}

void expect_error(ErrorCode code, const std::string& text, const std::function<void()>& body,
                  const char* file, int line) {
  try {
    body();
  } catch (const Error& error) {
    const std::string what = error.what();
    if (error.code() != code || what.find(text) == std::string::npos) {
      fail(file, line,
           "expected " + std::string(error_code_name(code)) + " with \"" + text + "\", got " +
               std::string(error_code_name(error.code())) + " \"" + what + "\"");
    }
    return;
  }
  fail(file, line, "expected " + std::string(error_code_name(code)) + ", nothing was thrown");
}

}  // namespace subbit::test

int main(int argc, char** argv) {
  using namespace subbit::test;
  const std::string filter = argc > 1 ? argv[1] : "";
  const int share = argc > 3 ? std::atoi(argv[2]) : 0;
  const int shares = argc > 3 ? std::max(1, std::atoi(argv[3])) : 1;
  int met = 0;
  int passed = 0;
  int failed = 0;
  int skipped = 0;
  for (const Case& test : cases()) {
    if (test.name.find(filter) == std::string::npos) continue;
    if (met++ % shares != share) continue;
    failures_of_case = 0;
    try {
      test.body();
      for (const auto& look : looks()) look();
      if (failures_of_case == 0) {
        ++passed;
        std::printf("ok    %s\n", test.name.c_str());
        continue;
      }
    } catch (const Skip& reason) {
      ++skipped;
      std::printf("skip  %s: %s\n", test.name.c_str(), reason.reason.c_str());
      continue;
    } catch (const std::exception& error) {
      std::printf("  threw: %s\n", error.what());
    }
    ++failed;
    std::printf("FAIL  %s\n", test.name.c_str());
  }
  for (const auto& path : temporary_directories) std::filesystem::remove_all(path);
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed == 0 && passed + skipped > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
