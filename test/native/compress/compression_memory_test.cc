// What a compression would hold is said, and refused, before anything is done; what was said beside
// what was measured is test/lib/compression-memory.test.ts, which needs a process to itself.
#include "compress/compression_memory.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/process.h"
#include "engine.h"
#include "support/test.h"

namespace subbit {
namespace {

CompressRequest small_request() {
  CompressRequest request;
  request.source = test::fixture("models/tiny-llama");
  request.out = test::temporary_directory() + "/out";
  request.target.amount = 6.0;
  for (int32_t w = 0; w < 24; ++w) request.calibration.push_back({1, 5, 7, 9 + w, 11, 13});
  request.effort = Effort::kFast;
  request.threads = 1;
  request.stages.model.updates = 0;
  return request;
}

CompressMemory planned(const CompressRequest& request, CalibrationSize text, Effort effort) {
  JobControl control;
  const CompressPlan plan = plan_compress({request, text, text, text}, control);
  return plan.costs[static_cast<size_t>(effort)].memory;
}

uint64_t stage(const CompressMemory& memory, const std::string& name) {
  for (const StageBytes& stage : memory.stages)
    if (stage.name == name) return stage.bytes;
  return 0;
}

std::string detail(const Error& error, const std::string& name) {
  for (const ErrorDetail& entry : error.details())
    if (entry.first == name) return entry.second;
  return {};
}

TEST(a_compression_over_its_budget_is_refused_with_every_part_before_it_writes) {
  CompressRequest request = small_request();
  request.memory_budget = 1'000'000;
  JobControl control;
  bool refused = false;
  try {
    compress(request, control);
  } catch (const Error& error) {
    refused = error.code() == ErrorCode::kInsufficientMemory;
    EXPECT_EQ(detail(error, "limit_source"), std::string("budget"));
    EXPECT_EQ(detail(error, "limit_bytes"), std::string("1000000"));
    for (const char* part : {"original_bytes", "process_bytes", "text_bytes", "stage_blocks_bytes"})
      EXPECT(detail(error, part) != "");
  }
  EXPECT(refused);
  EXPECT(!std::filesystem::exists(request.out));
  request.over_limit = OverLimit::kIgnore;
  EXPECT(compress(request, control).bytes > 0);
}

TEST(a_budget_that_the_plan_just_fits_is_enough) {
  CompressRequest request = small_request();
  JobControl control;
  std::string said;
  control.on_progress = [&](const Progress& progress) {
    if (progress.phase == "plan") said = progress.detail;
  };
  const uint64_t before = process_memory().resident;
  const CompressResult first = compress(request, control);
  EXPECT(said.find("at most ") == 0);
  request.out += "-again";
  // The process itself has grown since, with sanitizers by what they keep of freed memory.
  const uint64_t now = process_memory().resident;
  const uint64_t grown = now - std::min(now, before);
  request.memory_budget = first.plan.costs[0].memory.private_bytes() + grown + 16'000'000;
  EXPECT_EQ(compress(request, control).bytes, first.bytes);
}

TEST(what_a_compression_holds_grows_with_text_and_effort_where_it_should) {
  const CompressRequest request = small_request();
  const CompressMemory little = planned(request, {8, 200}, Effort::kBalanced);
  const CompressMemory much = planned(request, {800, 20'000}, Effort::kBalanced);
  const CompressMemory fast = planned(request, {800, 20'000}, Effort::kFast);
  EXPECT(much.text > little.text);
  EXPECT(stage(much, "blocks") > stage(little, "blocks"));
  // Two streams, and a block in training.
  EXPECT(stage(much, "blocks") > stage(fast, "blocks"));
  EXPECT_EQ(stage(fast, "gradients"), uint64_t{0});
  EXPECT(stage(much, "gradients") > 0);
  EXPECT_EQ(stage(much, "tune"), uint64_t{0});  // not asked for
  EXPECT_EQ(much.peak(), much.original + much.result + much.private_bytes());
}

}  // namespace
}  // namespace subbit
