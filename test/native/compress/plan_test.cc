// What is planned is what is written, whatever the target counts.
#include "compress/plan.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "engine.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

using Unit = CompressTarget::Unit;

std::vector<std::vector<int32_t>> some_windows() {
  std::vector<std::vector<int32_t>> windows;
  for (int32_t w = 0; w < 24; ++w) {
    std::vector<int32_t> window = {1};
    for (int32_t i = 0; i < 24; ++i) window.push_back((i * i * 7 + w * 13 + i) % 67);
    windows.push_back(window);
  }
  return windows;
}

CompressRequest request_for(CompressTarget target, const std::string& fixture = "tiny-llama") {
  CompressRequest request;
  request.source = test::fixture("models/" + fixture);
  request.out = test::temporary_directory() + "/out";
  request.target = target;
  request.calibration = some_windows();
  request.effort = Effort::kFast;
  request.threads = 1;
  request.stages.model.updates = 0;
  return request;
}

CompressPlan plan_of(const CompressRequest& request) {
  JobControl control;
  return plan_compress({request, {2, 50}, {20, 500}, {200, 5000}}, control);
}

CompressResult run(const CompressRequest& request) {
  JobControl control;
  return compress(request, control);
}

uint64_t written_bytes(const CompressRequest& request) {
  return std::filesystem::file_size(request.out + "/model.safetensors");
}

TEST(the_file_is_as_large_as_planned_whatever_it_holds) {
  for (const char* fixture : {"tiny-llama", "tiny-llama3", "tiny-linear", "tiny-mistral"}) {
    for (const EndBits ends : {EndBits{4, 0}, EndBits{2, 0}, EndBits{3, 0}, EndBits{16, 0}}) {
      CompressRequest request = request_for({Unit::kBodyBits, 6.0}, fixture);
      request.ends = ends;
      const CompressPlan plan = plan_of(request);
      const CompressResult result = run(request);
      EXPECT_EQ(plan.bytes, written_bytes(request));
      EXPECT_EQ(plan.bytes, result.bytes);
      EXPECT_EQ(result.plan.bytes, result.bytes);
      EXPECT_EQ(plan.bits_per_weight_body, result.bits_per_weight_body);
      EXPECT_EQ(plan.bits_per_weight_file, result.bits_per_weight_file);
      uint64_t sum = 0;
      for (const PlannedTensor& tensor : plan.tensors) sum += tensor.bytes;
      EXPECT_EQ(sum, plan.bytes);
    }
  }
}

std::string least_of(const CompressRequest& request) {
  try {
    plan_of(request);
  } catch (const Error& error) {
    EXPECT(error.code() == ErrorCode::kInvalidOption);
    for (const auto& [name, value] : error.details())
      if (name == "expected") return value.substr(std::string("at least ").size());
  }
  return {};
}

TEST(every_target_is_kept_and_one_too_low_names_the_least_there_is) {
  for (const Unit unit : {Unit::kBodyBits, Unit::kFileBits, Unit::kFileBytes, Unit::kMemoryBytes}) {
    const bool is_bits = unit == Unit::kBodyBits || unit == Unit::kFileBits;
    CompressRequest request = request_for({unit, is_bits ? 0.01 : 100.0});
    const std::string named = least_of(request);
    EXPECT(!named.empty());
    const double least = std::stod(named);
    request.target.amount = least;
    const auto measure = [&](const CompressPlan& plan) {
      switch (unit) {
        case Unit::kBodyBits:
          return plan.bits_per_weight_body;
        case Unit::kFileBits:
          return plan.bits_per_weight_file;
        case Unit::kFileBytes:
          return static_cast<double>(plan.bytes);
        case Unit::kMemoryBytes:
          return static_cast<double>(plan.memory_bytes);
      }
      return 0.0;
    };
    EXPECT(measure(plan_of(request)) <= least);
    EXPECT(measure(plan_of(request)) > least * 0.998);
    request.target.amount = is_bits ? least - 0.002 : least - 1.0;
    EXPECT_ERROR(ErrorCode::kInvalidOption, "smallest form", plan_of(request));
    for (const double amount : {0.0, -1.0, std::nan("")}) {
      request.target.amount = amount;
      EXPECT_ERROR(ErrorCode::kInvalidOption, "make no sense", plan_of(request));
    }
  }
}

TEST(a_real_model_fills_a_target_of_bytes_to_the_last_step) {
  CompressRequest request = request_for({Unit::kFileBytes, 70000.0});
  request.source = test::shared_data("models/stories260K");
  const CompressPlan plan = plan_of(request);
  EXPECT(plan.bytes <= 70000);
  // Its smallest linear gains 32 ranks of 64 + 64 columns, 1 KiB and its padding; the header moves
  // by whole pages only where its digits make it.
  EXPECT(plan.bytes > 70000 - 2048);
  EXPECT(plan.memory_bytes > plan.bytes);
  request.target = {Unit::kMemoryBytes, static_cast<double>(plan.memory_bytes),
                    plan.context_length};
  EXPECT_EQ(plan_of(request).bytes, plan.bytes);
  request.target.context_length = 100'000;
  EXPECT_ERROR(ErrorCode::kInvalidOption, "context", plan_of(request));
}

const PlannedTensor& row(const CompressPlan& plan, const std::string& name) {
  for (const PlannedTensor& tensor : plan.tensors)
    if (tensor.name == name) return tensor;
  throw Error(ErrorCode::kInternal, "nothing is planned for " + name);
}

TEST(what_is_kept_is_the_checkpoints_own_and_the_rest_still_runs) {
  // A kept down_proj has no rows to take a scale; a kept qkv leaves its norm alone, and is what o
  // would have given its scale to.
  for (const char* pattern : {"*.down_proj", "*.k_proj", "*.o_proj", "model.layers.1.*", "*"}) {
    CompressRequest request = request_for({Unit::kBodyBits, 60.0}, "tiny-mistral");
    request.keep = {{pattern, KeepRule::Rule::kAsStored, 0}};
    request.stages.model.updates = 2;
    const bool all = std::string(pattern) == "*";
    if (all) request.ends = {16, 0};
    const CompressResult result = run(request);
    EXPECT_EQ(result.plan.bytes, written_bytes(request));
    EXPECT_EQ(result.linears.size(), size_t{8});
    EvaluateRequest evaluation;
    evaluation.path = request.out;
    evaluation.teacher_path = request.source;
    evaluation.windows = some_windows();
    evaluation.threads = 1;
    JobControl control;
    const EvaluateResult near = evaluate(evaluation, control);
    EXPECT(std::isfinite(near.kl_mean));
    if (!all) continue;
    EXPECT_NEAR(near.kl_mean, 0.0, 1e-9);
    EXPECT(!result.tuned);
    for (const CompressedLinear& linear : result.linears) EXPECT_EQ(linear.weight_error, 0.0);
  }
}

TEST(kept_bits_are_stored_in_groups_and_counted) {
  CompressRequest request = request_for({Unit::kBodyBits, 60.0});
  request.keep = {{"*.down_proj", KeepRule::Rule::kBits, 8},
                  {"*.o_proj", KeepRule::Rule::kBits, 3},
                  {"*layers.0*up_proj", KeepRule::Rule::kAtLeast, 1.0}};
  request.stages.model.updates = 0;
  const CompressPlan plan = plan_of(request);
  EXPECT_EQ(row(plan, "model.layers.1.mlp.down_proj").format, std::string("int8"));
  EXPECT_EQ(row(plan, "model.layers.0.self_attn.o_proj").format, std::string("int3"));
  const CompressResult result = run(request);
  EXPECT_EQ(plan.bytes, written_bytes(request));
  for (const CompressedLinear& linear : result.linears) {
    if (linear.format == "int8") EXPECT(linear.weight_error < 1e-3);
    if (linear.format == "int3") EXPECT(linear.weight_error < 0.05 && linear.weight_error > 0.005);
  }
  // An interrupted work is found again, kept tensors included.
  EXPECT_EQ(result.resumed_blocks, int64_t{0});
  JobControl stopped;
  CompressRequest again = request;
  again.out = test::temporary_directory() + "/out";
  stopped.on_progress = [&](const Progress& progress) {
    if (progress.phase == "write") stopped.abort = true;
  };
  EXPECT_ERROR(ErrorCode::kAborted, "aborted", compress(again, stopped));
  const CompressResult resumed = run(again);
  EXPECT_EQ(resumed.resumed_blocks, int64_t{2});
  EXPECT(test::read_file(again.out + "/model.safetensors") ==
         test::read_file(request.out + "/model.safetensors"));
}

TEST(a_tied_head_cannot_differ_from_its_embedding) {
  CompressRequest request = request_for({Unit::kBodyBits, 6.0});
  request.ends = {4, 8};
  EXPECT_ERROR(ErrorCode::kInvalidOption, "head", plan_of(request));
  request.ends = {8, 8};
  EXPECT_EQ(row(plan_of(request), "model.embed_tokens.int8").bits_per_weight > 8.0, true);
  request.ends = {5, 0};
  EXPECT_ERROR(ErrorCode::kInvalidOption, "no format", plan_of(request));
}

TEST(costs_grow_with_the_effort_and_name_their_stages) {
  CompressRequest request = request_for({Unit::kBodyBits, 1.5});
  request.source = test::shared_data("models/stories260K");
  request.stages.model.updates = -1;
  const CompressPlan plan = plan_of(request);
  EXPECT_EQ(plan.costs.size(), size_t{3});
  EXPECT(plan.gemm_gflops > 0.1);
  double before = 0;
  for (const PredictedCost& cost : plan.costs) {
    EXPECT(cost.ms > before);
    before = cost.ms;
    EXPECT(cost.memory.private_bytes() > 0);
    EXPECT(cost.memory.peak() > cost.memory.private_bytes());
    double sum = 0;
    for (const StageTime& stage : cost.stages) sum += stage.ms;
    EXPECT_NEAR(sum, cost.ms, 1e-6 * cost.ms);
  }
}

TEST(stages_are_timed_and_add_up) {
  const CompressResult result = run(request_for({Unit::kBodyBits, 6.0}));
  double sum = 0;
  std::vector<std::string> names;
  for (const StageTime& stage : result.stages) {
    names.push_back(stage.name);
    sum += stage.ms;
  }
  for (const char* name : {"calibrate", "fit", "write"})
    EXPECT(std::find(names.begin(), names.end(), name) != names.end());
  EXPECT_NEAR(sum, result.wall_ms, 0.05 * result.wall_ms + 5.0);
  EXPECT_EQ(result.held_out_windows, int64_t{1});
}

}  // namespace
}  // namespace subbit
