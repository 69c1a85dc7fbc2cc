// The C++ tests' harness: TEST(name) registers a function, EXPECT* record failures and go on.
// test_main.cc runs all, or those whose name contains an argument. Its last line reads
// "N passed, N failed, N skipped".
#pragma once

#include <cmath>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"

namespace subbit::test {

struct Case {
  std::string name;
  std::function<void()> body;
};

std::vector<Case>& cases();
/// Records a failure of the running case.
void fail(const char* file, int line, const std::string& message);
/// Ends the running case as skipped; the reason is printed.
[[noreturn]] void skip(const std::string& reason);
/// `relative` under ../shared/data, or skips the case with a clear line.
std::string shared_data(const std::string& relative);
/// `relative` under test/fixtures.
std::string fixture(const std::string& relative);
/// A fresh directory, removed when the process ends.
std::string temporary_directory();

/// Called when a case has ended, whatever came of it; what it records fails the case.
void after_each(std::function<void()> look);

struct Register {
  Register(const char* name, std::function<void()> body) { cases().push_back({name, body}); }
};

template <typename A, typename B>
void expect_equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (a == b) return;
  std::ostringstream message;
  message.precision(9);
  message << text << ": " << a << " against " << b;
  fail(file, line, message.str());
}

inline void expect_near(double a, double b, double tolerance, const char* text, const char* file,
                        int line) {
  if (std::fabs(a - b) <= tolerance) return;
  std::ostringstream message;
  message.precision(9);
  message << text << ": " << a << " against " << b << ", more than " << tolerance << " apart";
  fail(file, line, message.str());
}

/// Runs `body`; a failure unless it throws an Error of `code`, whose message contains `text`.
void expect_error(ErrorCode code, const std::string& text, const std::function<void()>& body,
                  const char* file, int line);

}  // namespace subbit::test

#define TEST(name)                                                           \
  static void test_##name();                                                 \
  static const ::subbit::test::Register register_##name(#name, test_##name); \
  static void test_##name()

#define EXPECT(condition) \
  ((condition) ? void() : ::subbit::test::fail(__FILE__, __LINE__, "expected " #condition))
#define EXPECT_EQ(a, b) ::subbit::test::expect_equal(a, b, #a " == " #b, __FILE__, __LINE__)
#define EXPECT_NEAR(a, b, tolerance) \
  ::subbit::test::expect_near(a, b, tolerance, #a " ~ " #b, __FILE__, __LINE__)
#define EXPECT_ERROR(code, text, ...) \
  ::subbit::test::expect_error(code, text, [&] { __VA_ARGS__; }, __FILE__, __LINE__)
