// Every kernel of the GPU judged by itself: all are right on a right device, and of a device with
// one wrong kernel that one is named, and no other.
#include "selftest/kernel_trial.h"

#include <cstdlib>
#include <string>

#include "backend/metal/metal_device.h"
#include "selftest/kernel_cases.h"
#include "support/fake_metal/fake_metal.h"
#include "support/gpu_runner.h"
#include "support/test.h"

namespace subbit {
namespace {

using Verdict = JudgedKernel::Verdict;

std::vector<JudgedKernel> verdicts() {
  ThreadPool pool(1);
  return judge_kernels(test::test_device(), pool);
}

/// What no model runs: the doctor's measure, and what tests of the shaders plant.
bool is_no_models(const std::string& kernel) {
  return kernel == "read_bandwidth" || kernel.starts_with("deleted_barrier_") ||
         kernel.starts_with("wrong_pad_") || kernel.starts_with("planted_");
}

TEST(every_kernel_of_a_right_device_is_judged_right) {
  fake_metal::reset();
  int right = 0;
  for (const auto& [kernel, verdict, why] : verdicts()) {
    if (is_no_models(kernel)) continue;
    if (verdict == Verdict::kRight) ++right;
    if (verdict != Verdict::kRight) test::fail(__FILE__, __LINE__, kernel + ": " + why);
  }
  EXPECT(right > 100);
}

#if !defined(__APPLE__)

/// The kernels judged wrong where `broken` does nothing.
std::string wrong_when_broken(const std::string& broken) {
  fake_metal::Settings settings;
  settings.broken_kernel = broken;
  fake_metal::reset(settings);
  std::string wrong;
  for (const auto& [kernel, verdict, why] : verdicts()) {
    if (verdict == Verdict::kWrong) wrong += (wrong.empty() ? "" : " ") + kernel;
  }
  fake_metal::reset();
  return wrong;
}

TEST(the_one_wrong_kernel_of_a_device_is_named_alone) {
  // One that all products need, a first stage, and a second pass.
  for (const char* kernel : {"quantize", "sign_gemv_rank", "attention_combine"}) {
    EXPECT_EQ(wrong_when_broken(kernel), kernel);
  }
}

TEST(any_one_wrong_kernel_of_a_device_is_named_alone) {
  if (std::getenv("SUBBIT_LONG_TESTS") == nullptr) test::skip("a long test");
  fake_metal::reset();
  for (const auto& [kernel, verdict, why] : verdicts()) {
    if (!is_no_models(kernel)) EXPECT_EQ(wrong_when_broken(kernel), kernel);
  }
}

#endif

}  // namespace
}  // namespace subbit
