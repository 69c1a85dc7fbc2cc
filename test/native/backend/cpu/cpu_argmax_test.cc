// The likeliest token on the processor: what a GPU's must equal.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_operations.h"
#include "support/test.h"

namespace subbit {
namespace {

int32_t argmax(std::vector<float> logits) {
  const auto count = static_cast<int64_t>(logits.size());
  return cpu_argmax({logits.data(), 1, count, count, nullptr});
}

TEST(argmax_takes_the_first_of_the_largest_wherever_it_stands) {
  for (const size_t count : {1u, 15u, 16u, 17u, 257u}) {
    for (const size_t at : {size_t{0}, count / 2, count - 1}) {
      std::vector<float> logits(count, -3.0f);
      logits[at] = -1.0f;
      EXPECT_EQ(argmax(logits), static_cast<int32_t>(at));
      logits.back() = -1.0f;
      EXPECT_EQ(argmax(logits), static_cast<int32_t>(at));
    }
  }
  EXPECT_EQ(argmax({-1.0f, -0.0f, 0.0f}), 1);  // equal, whatever their signs
}

TEST(argmax_refuses_logits_that_are_not_numbers) {
  for (const float odd : {std::nanf(""), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    std::vector<float> logits(20, 1.0f);
    logits[18] = odd;
    EXPECT_ERROR(ErrorCode::kNonFinite, "a logit is not a finite number", argmax(logits));
  }
}

}  // namespace
}  // namespace subbit
