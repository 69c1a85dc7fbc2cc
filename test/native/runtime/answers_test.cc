// What the trial of a GPU takes for roundings and what for an error: back ends that are the
// processor but for one thing, on models whose linears take eight-bit codes.
#include "runtime/answers.h"

#include <cmath>
#include <functional>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "base/rng.h"
#include "support/test.h"
#include "support/tiny_model.h"

namespace subbit {
namespace {

/// What a device may do differently; each is handed what the processor would read or has written.
struct Difference {
  std::function<void(Tensor x)> input;
  std::function<void(const Linear& linear, Tensor y)> output;
  std::function<void(Tensor out)> norm;
};

class Different final : public ForwardingBackend {
 public:
  Different(Backend& inner, Difference difference)
      : ForwardingBackend(inner), difference_(std::move(difference)) {}

  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override {
    inner_.rms_norm(x, weight, eps, out);
    if (difference_.norm) difference_.norm(out);
  }
  void linear(const Linear& linear, Tensor x, Tensor y) override {
    if (difference_.input) difference_.input(x);
    inner_.linear(linear, x, y);
    if (difference_.output) difference_.output(linear, y);
  }
  void linear_add(const Linear& linear, Tensor x, Tensor y) override {
    if (difference_.input) difference_.input(x);
    inner_.linear_add(linear, x, y);
  }

 private:
  Difference difference_;
};

/// The trial of a processor that differs so.
std::string verdict(const std::string& path, const Difference& difference) {
  test::OpenedModel opened(path);
  ThreadPool pool(1);
  const auto cpu = make_cpu_backend(pool);
  Different device(*cpu, difference);
  const auto answers = [&](Backend& backend) {
    return answer(*opened.model, backend, KvType::kF16, 64);
  };
  return disagreement(answers(*cpu), answers(*otherwise_rounding(*cpu)), answers(device));
}

const std::string kModels[] = {test::fixture("../../share/stories15M"),
                               test::fixture("models/tiny-llama")};

void for_each_value(Tensor x, const std::function<float(float value)>& change) {
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t i = 0; i < x.cols; ++i) {
      x.data[t * x.stride + i] = change(x.data[t * x.stride + i]);
    }
  }
}

TEST(a_device_whose_floats_end_in_other_bits_agrees) {
  for (const std::string& path : kModels) {
    Rng rng(3);
    Difference last_bits;
    last_bits.norm = [&](Tensor out) {
      for_each_value(out, [&](float value) {
        return std::nextafterf(value, rng.next() % 2 == 0 ? HUGE_VALF : -HUGE_VALF);
      });
    };
    EXPECT_EQ(verdict(path, last_bits), "");
  }
}

// What an int3 model was once refused for: the last bit of one float in the prompt.
TEST(a_device_that_moves_one_code_of_the_prompt_agrees) {
  for (const std::string& path : kModels) {
    for (const int64_t column : {0, 7, 63}) {
      bool moved = false;
      Difference one_code;
      one_code.input = [&](Tensor x) {
        if (moved) return;
        moved = true;
        // A step is at most a 64th of the chunk's largest.
        float largest = 0;
        for (int64_t i = 0; i < 32; ++i) {
          largest = std::max(largest, std::fabs(x.data[column / 32 * 32 + i]));
        }
        x.data[column] += largest / 64;
      };
      EXPECT_EQ(verdict(path, one_code), "");
    }
  }
}

TEST(a_device_whose_roundings_all_fall_otherwise_agrees) {
  for (const std::string& path : kModels) {
    Rng rng(17);
    Difference all_codes;
    all_codes.input = [&](Tensor x) {
      // About a quarter of a step on either side: a quarter of the codes move.
      for_each_value(x, [&](float value) {
        return value * (1 + static_cast<float>(rng.uniform() - 0.5) / 96);
      });
    };
    EXPECT_EQ(verdict(path, all_codes), "");
  }
}

void expect_refused(const std::string& path, const Difference& difference) {
  EXPECT(verdict(path, difference).find("differ from the processor") != std::string::npos);
}

TEST(a_device_that_drops_the_last_row_or_column_is_refused) {
  Difference row;
  row.output = [](const Linear&, Tensor y) {
    for (int64_t t = 0; t < y.rows; ++t) y.data[t * y.stride + y.cols - 1] = 0;
  };
  for (const std::string& path : kModels) expect_refused(path, row);
  // One of 64. Of 288 it would leave as little as roundings do: the kernels' trials see that.
  Difference column;
  column.input = [](Tensor x) {
    for (int64_t t = 0; t < x.rows; ++t) x.data[t * x.stride + x.cols - 1] = 0;
  };
  expect_refused(kModels[1], column);
}

// One logit of 32,000, which no divergence would show.
TEST(a_device_that_drops_the_last_row_of_the_head_is_refused) {
  Difference head;
  head.output = [](const Linear&, Tensor y) {
    if (y.cols < 32000) return;
    for (int64_t t = 0; t < y.rows; ++t) y.data[t * y.stride + y.cols - 1] = 0;
  };
  EXPECT(verdict(kModels[0], head).find("single logits differ") != std::string::npos);
}

TEST(a_device_that_reads_what_a_pad_should_have_hidden_is_refused) {
  for (const std::string& path : kModels) {
    Difference pad;
    pad.output = [](const Linear&, Tensor y) {
      // The product of a column that is not there with the first that is.
      for (int64_t t = 0; t < y.rows; ++t) {
        for (int64_t r = 0; r < y.cols; ++r)
          y.data[t * y.stride + r] += 0.05f * y.data[t * y.stride];
      }
    };
    expect_refused(path, pad);
  }
}

TEST(answers_that_are_no_numbers_are_refused) {
  Answers right;
  right.logits = {{1, 2, 3}, {3, 2, 1}};
  Answers rounded = right;
  rounded.logits[0][0] += 0.1f;
  rounded.logits[1][0] += 0.1f;
  Answers none = right;
  none.logits[1][2] = NAN;
  EXPECT(disagreement(right, rounded, none).find("differ from the processor") != std::string::npos);
}

}  // namespace
}  // namespace subbit
