// embed on the CPU: the right rows, in order, repeats included.
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "fake_weight.h"
#include "tensors.h"

namespace subbit {
namespace {

using test::FakeWeight;
using test::OwnedTensor;

TEST(embed_copies_the_row_of_each_token) {
  ThreadPool pool(2);
  const auto backend = make_cpu_backend(pool);
  const FakeWeight table({11, 7}, InputKind::kFloat, 1);
  std::vector<int32_t> tokens{10, 0, 3, 3, 7};
  for (int32_t i = 0; i < 40; ++i) tokens.push_back(i % 11);
  OwnedTensor h(std::ssize(tokens), 7);
  backend->embed(table, tokens, h.tensor);
  backend->finish();
  for (int64_t t = 0; t < h.tensor.rows; ++t)
    for (int64_t j = 0; j < 7; ++j)
      EXPECT_EQ(h.at(t, j), table.at(tokens[static_cast<size_t>(t)], j));
  EXPECT(h.slack_untouched());
  backend->embed(table, {}, Tensor{nullptr, 0, 7, 7, nullptr});
}

TEST(embed_refuses_a_token_outside_the_table) {
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  const FakeWeight table({4, 3}, InputKind::kFloat, 1);
  OwnedTensor h(1, 3);
  for (const int32_t token : {-1, 4}) {
    const std::vector<int32_t> tokens{token};
    EXPECT_ERROR(ErrorCode::kInternal, "token", backend->embed(table, tokens, h.tensor));
  }
}

}  // namespace
}  // namespace subbit
