// Whole compressions in every form a linear may take: files that load and weigh what was counted,
// the same bytes however often interrupted and on any number of threads, nearer to the teacher once
// tuned.
#include <cmath>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/rng.h"
#include "engine.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
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
  request.target.amount = 6.0;
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
    EXPECT(result.bits_per_weight_body <= request.target.amount);
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
    request.target.amount = forms == Forms::kTables ? 4.0 : 2.0;
    request.tune = false;
    run(request);
    const double plain = divergence_of(request);
    request.tune = true;
    request.stages.model.updates = 80;
    request.stages.model.rate = forms == Forms::kTables ? 1e-3f : 0.01f;
    request.calibration = random_windows(120, 1);
    run(request);
    const double tuned = divergence_of(request);
    EXPECT_NEAR(tuned, 0.0, 0.9 * plain);
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
  for (const auto& part :
       std::vector<std::pair<std::string, double>>{{"fit", 4}, {"tune", 17}, {"write", 1}}) {
    JobControl control;
    bool met = false;
    control.on_progress = [&](const Progress& progress) {
      if (progress.phase != part.first || progress.loaded < part.second) return;
      met = true;
      control.abort = true;
    };
    EXPECT_ERROR(ErrorCode::kAborted, "aborted", compress(request, control));
    EXPECT(met);
  }
  run(request);
  EXPECT(file_of(request) == expected);
}

/// tiny-llama with linears as if trained ternary, each with one scale, in bfloat16.
void write_ternary_model(const std::string& directory) {
  const Checkpoint source = Checkpoint::open(test::fixture("models/tiny-llama"));
  std::vector<TensorSpec> specs;
  for (const TensorView& tensor : source.tensors()) {
    const bool linear =
        tensor.shape.size() == 2 && tensor.name.find("layers.") != std::string::npos;
    specs.push_back({tensor.name, linear ? DType::kBF16 : tensor.dtype, tensor.shape});
  }
  std::filesystem::create_directories(directory);
  SafetensorsWriter writer(directory + "/model.safetensors", specs, {{"format", "pt"}});
  Rng rng(8);
  for (const TensorView& tensor : source.tensors()) {
    if (tensor.shape.size() != 2 || tensor.name.find("layers.") == std::string::npos) {
      writer.write(tensor.name, tensor.bytes);
      continue;
    }
    const auto scale = static_cast<float>(0.05 + 0.1 * rng.uniform());
    std::vector<BFloat16> values;
    for (int64_t i = 0; i < tensor.count(); ++i)
      values.push_back(to_bfloat16(scale * static_cast<float>(std::floor(3 * rng.uniform()) - 1)));
    writer.write(tensor.name, std::as_bytes(std::span(values)));
  }
  writer.commit();
  std::filesystem::copy(test::fixture("models/tiny-llama/config.json"), directory + "/config.json");
}

TEST(a_model_trained_ternary_comes_back_exactly) {
  const std::string directory = test::temporary_directory();
  write_ternary_model(directory + "/ternary");
  CompressRequest request = request_for(Forms::kCodes, directory + "/out");
  request.source = directory + "/ternary";
  request.tune = false;
  const CompressResult result = run(request);
  for (const CompressedLinear& linear : result.linears) {
    EXPECT_EQ(linear.format, std::string("sign + sign"));
    EXPECT_EQ(linear.weight_error, 0.0);
    const UnpackedTensor packed = unpack_tensor(request.out, linear.name + ".packed");
    EXPECT_EQ(packed.rows, linear.rows);
    // q, k and v lie stacked, and so do gate and up; o and down are alone.
    if (linear.name.find("o_proj") == std::string::npos &&
        linear.name.find("down_proj") == std::string::npos)
      continue;
    const UnpackedTensor source = unpack_tensor(request.source, linear.name + ".weight");
    EXPECT(packed.values == source.values);
  }
}

}  // namespace
}  // namespace subbit
