// What the allocator may choose from: every form weighs what its bytes would, covers all columns,
// and is of the kind that was asked for.
#include "compress/candidates.h"

#include <algorithm>
#include <vector>

#include "compress/fit/coded/coded.h"
#include "compress/fit/factored/factored.h"
#include "support/test.h"

namespace subbit {
namespace {

using Forms = CompressStages::Forms;

PackedSize outline_of(Shape shape) {
  PackedSize size;
  size.shape = shape;
  return size;
}

/// Whether the terms lie side by side from the first column to the last (two over the same columns
/// count once), each beginning where a term may.
bool covers_all(const PackedSize& size) {
  int64_t next = 0;
  int64_t last = -1;
  for (const PackedSize::Term& term : size.terms) {
    if (term.first_column == last) continue;
    if (term.first_column != next || next % 64 != 0) return false;
    last = next;
    next += term.columns;
  }
  return next == size.shape.cols;
}

TEST(candidates_are_of_the_forms_asked_for_and_cover_every_column) {
  for (const Shape shape : {Shape{64, 64}, Shape{64, 172}, Shape{288, 288}, Shape{96, 4096}}) {
    for (const Forms forms : {Forms::kFactored, Forms::kTables, Forms::kCodes, Forms::kMixed}) {
      const std::vector<Candidate> candidates = candidates_of(outline_of(shape), forms);
      EXPECT(!candidates.empty());
      bool factored = false;
      bool tables = false;
      bool codes = false;
      for (const Candidate& candidate : candidates) {
        EXPECT(covers_all(candidate.size));
        EXPECT_EQ(candidate.bytes, packed_bytes(candidate.size));
        EXPECT(candidate.error > 0.0 && candidate.error < 1.0);
        EXPECT(is_factored(candidate.size) || is_coded(candidate.size));
        factored = factored || is_factored(candidate.size);
        const bool has_table = !table_widths(candidate.size).empty();
        tables = tables || has_table;
        codes = codes || (is_coded(candidate.size) && !has_table);
      }
      EXPECT_EQ(factored, forms == Forms::kFactored || forms == Forms::kMixed);
      EXPECT_EQ(tables, forms == Forms::kTables || forms == Forms::kMixed);
      EXPECT_EQ(codes, forms == Forms::kCodes || forms == Forms::kMixed);
    }
  }
}

TEST(more_bits_are_expected_to_leave_less_error_within_a_form) {
  for (const Forms forms : {Forms::kTables, Forms::kCodes}) {
    std::vector<Candidate> candidates = candidates_of(outline_of({512, 1024}), forms);
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.bytes < b.bytes; });
    EXPECT(candidates.front().error > 0.5);
    EXPECT(candidates.back().error < 0.15);
    EXPECT(candidates.front().bytes < 512 * 1024 / 8 * 0.55);
  }
}

}  // namespace
}  // namespace subbit
