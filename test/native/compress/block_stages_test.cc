// The stages of a block through the public call: the same bytes on any number of threads and after
// an abort in the middle of a block, and nearer to the teacher than fits alone.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/rng.h"
#include "engine.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

std::vector<std::vector<int32_t>> random_windows(int count, uint64_t seed) {
  Rng rng(seed);
  std::vector<std::vector<int32_t>> windows;
  for (int w = 0; w < count; ++w) {
    std::vector<int32_t> window = {1};
    for (int i = 0; i < 23; ++i) window.push_back(static_cast<int32_t>(rng.uniform() * 67));
    windows.push_back(window);
  }
  return windows;
}

CompressRequest request_for(const std::string& fixture, const std::string& out) {
  CompressRequest request;
  request.source = test::fixture("models/" + fixture);
  request.out = out;
  request.target.amount = 6.0;
  request.calibration = random_windows(60, 1);
  request.effort = Effort::kFast;
  request.seed = 5;
  request.threads = 1;
  request.stages.absorb.updates = 6;
  request.stages.refine.updates = 6;
  request.stages.block.updates = 6;
  request.stages.model.updates = 0;
  return request;
}

CompressResult run(const CompressRequest& request) {
  JobControl control;
  return compress(request, control);
}

std::string model_bytes(const std::string& directory) {
  return test::read_file(directory + "/model.safetensors");
}

double divergence_of(const std::string& path, const std::string& teacher) {
  EvaluateRequest evaluation;
  evaluation.path = path;
  evaluation.teacher_path = teacher;
  evaluation.windows = random_windows(20, 2);
  evaluation.threads = 2;
  JobControl control;
  return evaluate(evaluation, control).kl_mean;
}

TEST(trained_blocks_are_the_same_bytes_on_any_number_of_threads) {
  const std::string directory = test::temporary_directory();
  CompressRequest request = request_for("tiny-llama3", directory + "/one");
  run(request);
  request.out = directory + "/three";
  request.threads = 3;
  run(request);
  EXPECT(model_bytes(directory + "/one") == model_bytes(directory + "/three"));
}

TEST(a_block_aborted_in_its_training_is_made_again_to_the_same_bytes) {
  const std::string directory = test::temporary_directory();
  run(request_for("tiny-llama", directory + "/whole"));
  for (const char* stage : {"block 2/2, error", "refine model.layers.1.mlp", "all linears"}) {
    const CompressRequest request = request_for("tiny-llama", directory + "/resumed");
    JobControl control;
    control.on_progress = [&](const Progress& progress) {
      if (progress.phase == "tune blocks" && progress.detail.find("block 2/2") == 0 &&
          progress.detail.find(stage) != std::string::npos)
        control.abort = true;
    };
    EXPECT_ERROR(ErrorCode::kAborted, "aborted", compress(request, control));
    const CompressResult result = run(request);
    EXPECT_EQ(result.resumed_blocks, int64_t{1});
    EXPECT(model_bytes(directory + "/resumed") == model_bytes(directory + "/whole"));
  }
}

TEST(each_way_to_train_blocks_brings_the_model_nearer_to_its_teacher) {
  const std::string directory = test::temporary_directory();
  for (const char* fixture : {"tiny-llama", "tiny-llama3"}) {
    const auto divergence = [&](int64_t absorb, int64_t refine, int64_t together) {
      CompressRequest request = request_for(fixture, directory + "/out");
      request.stages.absorb.updates = absorb;
      request.stages.refine.updates = refine;
      request.stages.block.updates = together;
      run(request);
      return divergence_of(request.out, request.source);
    };
    const double fitted = divergence(0, 0, 0);
    EXPECT(divergence(40, 0, 0) < fitted);
    EXPECT(divergence(0, 40, 0) < fitted);
    EXPECT(divergence(0, 0, 40) < 0.9 * fitted);
  }
}

TEST(the_progress_of_block_training_ends_where_it_said) {
  const std::string out = test::temporary_directory() + "/out";
  JobControl control;
  double last = -1;
  double total = 0;
  control.on_progress = [&](const Progress& progress) {
    if (progress.phase != "tune blocks") return;
    EXPECT(progress.loaded > last);
    EXPECT(progress.loaded < progress.total);
    last = progress.loaded;
    total = progress.total;
  };
  compress(request_for("tiny-llama", out), control);
  // Two blocks of four linears: 6 updates before each fit, 6 after each, 6 together.
  EXPECT_EQ(total, 2.0 * (4 * 6 + 4 * 6 + 6));
  EXPECT_EQ(last, total - 1);
}

}  // namespace
}  // namespace subbit
