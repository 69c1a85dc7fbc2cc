// Whole compressions in every form a linear may take: files that load and weigh what was counted,
// the same bytes however often interrupted and on any number of threads, nearer to the teacher once
// tuned.
#include <filesystem>
#include <string>
#include <vector>

#include "base/rng.h"
#include "engine.h"
#include "io/checkpoint.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

using Forms = CompressStages::Forms;

std::vector<std::vector<int32_t>> random_windows(int count, uint64_t seed) {
  Rng rng(seed);
  std::vector<std::vector<int32_t>> windows;
  for (int w = 0; w < count; ++w) {
    std::vector<int32_t> window = {1};
    for (int i = 0; i < 31; ++i) window.push_back(static_cast<int32_t>(rng.uniform() * 67));
    windows.push_back(window);
  }
  return windows;
}

CompressRequest request_for(Forms forms, const std::string& out) {
  CompressRequest request;
  request.source = test::fixture("models/tiny-llama");
  request.out = out;
  request.bits_per_weight = 6.0;
  request.calibration = random_windows(40, 1);
  request.effort = Effort::kFast;
  request.threads = 2;
  request.stages.forms = forms;
  request.stages.teacher_tokens = 0;
  return request;
}

CompressResult run(const CompressRequest& request) {
  JobControl control;
  return compress(request, control);
}

double divergence_of(const CompressRequest& request) {
  EvaluateRequest evaluation;
  evaluation.path = request.out;
  evaluation.teacher_path = request.source;
  evaluation.windows = random_windows(10, 2);
  evaluation.threads = 2;
  JobControl control;
  return evaluate(evaluation, control).kl_mean;
}

std::string file_of(const CompressRequest& request) {
  return test::read_file(request.out + "/model.safetensors");
}

TEST(every_form_makes_a_model_that_loads_and_weighs_what_was_counted) {
  for (const Forms forms : {Forms::kTables, Forms::kCodes, Forms::kMixed}) {
    CompressRequest request = request_for(forms, test::temporary_directory() + "/out");
    request.tune = false;
    const CompressResult result = run(request);
    EXPECT(result.bits_per_weight_body <= request.bits_per_weight);
    const Inspection inspection = inspect(request.out);
    EXPECT_NEAR(inspection.bits_per_weight_body, result.bits_per_weight_body, 1e-12);
    bool table = false;
    for (const InspectedTensor& tensor : inspection.tensors)
      table = table || tensor.name.starts_with("model.tables.");
    if (forms == Forms::kTables) EXPECT(table);
    if (forms == Forms::kCodes) EXPECT(!table);
    EXPECT(divergence_of(request) < 3.0);
  }
}

TEST(tuned_codes_come_nearer_to_the_teacher_than_fitted_ones) {
  for (const Forms forms : {Forms::kTables, Forms::kCodes}) {
    CompressRequest request = request_for(forms, test::temporary_directory() + "/out");
    request.bits_per_weight = forms == Forms::kTables ? 3.0 : 2.0;
    request.tune = false;
    run(request);
    const double plain = divergence_of(request);
    request.tune = true;
    run(request);
    EXPECT(divergence_of(request) < 0.9 * plain);
  }
}

TEST(a_model_of_tables_is_the_same_bytes_on_any_number_of_threads_and_when_interrupted) {
  const std::string directory = test::temporary_directory();
  CompressRequest request = request_for(Forms::kTables, directory + "/whole");
  run(request);
  const std::string expected = file_of(request);
  request.out = directory + "/threads";
  request.threads = 3;
  run(request);
  EXPECT(file_of(request) == expected);
  request.out = directory + "/parts";
  // In the second block, in tuning, and once everything is tuned.
  for (const auto& [phase, at] :
       std::vector<std::pair<std::string, double>>{{"fit", 4}, {"tune", 17}, {"write", 1}}) {
    JobControl control;
    bool met = false;
    control.on_progress = [&](const Progress& progress) {
      if (progress.phase != phase || progress.loaded < at) return;
      met = true;
      control.abort = true;
    };
    EXPECT_ERROR(ErrorCode::kAborted, "aborted", compress(request, control));
    EXPECT(met);
  }
  run(request);
  EXPECT(file_of(request) == expected);
}

}  // namespace
}  // namespace subbit
