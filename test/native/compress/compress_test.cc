#include <algorithm>
#include <cmath>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <unistd.h>
#include <vector>

#include "engine.h"
#include "formats/registry.h"
#include "io/checkpoint.h"
#include "models/model.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

/// Windows of fixed ids below 67, the fixtures' vocabulary.
std::vector<std::vector<int32_t>> some_windows() {
  std::vector<std::vector<int32_t>> windows;
  for (int32_t w = 0; w < 6; ++w) {
    std::vector<int32_t> window = {1};
    for (int32_t i = 0; i < 24; ++i) window.push_back((i * i * 7 + w * 13 + i) % 67);
    windows.push_back(window);
  }
  return windows;
}

CompressRequest request_for(const std::string& fixture, const std::string& out) {
  CompressRequest request;
  request.source = test::fixture("models/" + fixture);
  request.out = out;
  request.target.amount = 6.0;  // 32-wide matrices: rank 32 alone takes four bits and more
  request.calibration = some_windows();
  request.effort = Effort::kFast;
  request.seed = 5;
  request.threads = 1;
  return request;
}

CompressResult run(const CompressRequest& request) {
  JobControl control;
  return compress(request, control);
}

std::string model_bytes(const std::string& directory) {
  return test::read_file(directory + "/model.safetensors");
}

/// A loaded model with the checkpoint it views.
struct Opened {
  Checkpoint checkpoint;
  std::unique_ptr<Model> model;
  Manifest manifest;

  explicit Opened(const std::string& path) : checkpoint(Checkpoint::open(path)) {
    const Architecture& architecture = find_architecture(checkpoint.config(), checkpoint.path());
    model = architecture.load(checkpoint, WeightMode::kAsStored);
    manifest = architecture.manifest(checkpoint.config(), checkpoint.path());
  }

  std::vector<double> weights(const LinearSpec& spec) const {
    const Linear* linear = model->find_linear(spec.name);
    std::vector<double> all;
    for (const Linear::Part& part : linear->parts) {
      const Shape shape = part.weight->shape();
      std::vector<float> values(static_cast<size_t>(shape.count()));
      part.weight->unpack_rows(0, {values.data(), shape.rows, shape.cols});
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

  std::vector<double> bias(const LinearSpec& spec) const {
    std::vector<double> all;
    for (const Linear::Part& part : model->find_linear(spec.name)->parts) {
      const auto packed = part.weight->bias();
      all.insert(all.end(), packed.begin(), packed.end());
      all.insert(all.end(), part.bias.begin(), part.bias.end());
    }
    return all;
  }
};

double relative_error(const std::vector<double>& truth, const std::vector<double>& fit) {
  double error = 0.0;
  double total = 0.0;
  for (size_t i = 0; i < truth.size(); ++i) {
    error += (truth[i] - fit[i]) * (truth[i] - fit[i]);
    total += truth[i] * truth[i];
  }
  return error / total;
}

const CompressedLinear& report_on(const CompressResult& result, const std::string& name) {
  const auto found = std::find_if(result.linears.begin(), result.linears.end(),
                                  [&](const CompressedLinear& l) { return l.name == name; });
  if (found == result.linears.end()) throw Error(ErrorCode::kInternal, "no report on " + name);
  return *found;
}

TEST(a_compressed_model_loads_and_has_the_size_it_says) {
  for (const char* fixture : {"tiny-llama", "tiny-llama3", "tiny-linear", "tiny-mistral"}) {
    const std::string out = test::temporary_directory() + "/out";
    const CompressRequest request = request_for(fixture, out);
    const CompressResult result = run(request);
    EXPECT(result.bits_per_weight_body <= request.target.amount);
    EXPECT_EQ(result.bytes, static_cast<uint64_t>(fs::file_size(out + "/model.safetensors")));
    EXPECT_EQ(result.resumed_blocks, int64_t{0});

    const Opened opened(out);
    uint64_t body = 0;
    int64_t weights = 0;
    for (const BlockSpec& block : opened.manifest.blocks) {
      for (const LinearSpec& spec : block.linears) {
        body += opened.checkpoint.find(spec.name + ".packed")->bytes.size();
        weights += spec.shape.count();
        EXPECT_EQ(report_on(result, spec.name).bytes,
                  opened.checkpoint.find(spec.name + ".packed")->bytes.size());
      }
      for (const std::string& norm : block.norms)
        body += opened.checkpoint.find(norm)->bytes.size();
    }
    EXPECT_EQ(result.bits_per_weight_body, bits_per_weight(body, weights));
    EXPECT_EQ(result.bits_per_weight_file,
              bits_per_weight(result.bytes, opened.manifest.parameters));
    EXPECT(!fs::exists(out + ".state"));
    EXPECT_EQ(std::distance(fs::directory_iterator(out), fs::directory_iterator()), 2);
  }
}

TEST(the_config_names_the_quantization_and_keeps_the_rest) {
  const std::string out = test::temporary_directory() + "/out";
  const CompressResult result = run(request_for("tiny-llama3", out));
  const Json config = Json::parse(test::read_file(out + "/config.json"), "config.json");
  const Json* quantization = config.find("quantization_config");
  EXPECT(quantization != nullptr);
  EXPECT_EQ(*quantization->find("quant_method")->if_string(), "subbit");
  EXPECT_EQ(*quantization->find("layout_version")->if_int(), int64_t{1});
  double body = 0.0;
  EXPECT(quantization->find("bits_per_weight")->find("body")->get_number(body));
  EXPECT_EQ(body, result.bits_per_weight_body);
  const Json source =
      Json::parse(test::read_file(test::fixture("models/tiny-llama3/config.json")), "config.json");
  for (const auto& [key, value] : *source.if_object())
    EXPECT_EQ(config.find(key)->dump(), value.dump());
}

TEST(packed_tensors_lie_at_multiples_of_their_alignment) {
  const std::string out = test::temporary_directory() + "/out";
  run(request_for("tiny-llama", out));
  const SafetensorsFile file(out + "/model.safetensors");
  const std::byte* page = file.tensors()[0].bytes.data();
  for (const TensorView& tensor : file.tensors()) {
    const auto offset = static_cast<uint64_t>(tensor.bytes.data() - page);
    if (tensor.name.ends_with(".packed")) EXPECT_EQ(offset % 32, uint64_t{0});
    if (tensor.name.ends_with(".int4")) EXPECT_EQ(offset % 128, uint64_t{0});
  }
}

TEST(folded_scales_leave_the_weights_the_fit_reported) {
  // Gate rows are touched by the norm's fold alone: times norm'/norm they are the fit itself. So
  // are q, k and v here, because a scale shared by query heads is not folded into v.
  for (const char* fixture : {"tiny-llama", "tiny-llama3"}) {
    const std::string out = test::temporary_directory() + "/out";
    CompressRequest request = request_for(fixture, out);
    request.tune = false;
    const CompressResult result = run(request);
    const Opened source(test::fixture(std::string("models/") + fixture));
    const Opened packed(out);
    const BlockSpec& block = source.manifest.blocks[1];
    const LinearSpec& qkv = block.linears[0];
    const std::vector<float>& old_norm = *source.model->find_norm(block.norms[0]);
    const std::vector<float>& new_norm = *packed.model->find_norm(block.norms[0]);
    std::vector<double> weights = packed.weights(qkv);
    for (size_t i = 0; i < weights.size(); ++i) {
      const size_t j = i % static_cast<size_t>(qkv.shape.cols);
      weights[i] *= static_cast<double>(new_norm[j]) / old_norm[j];
    }
    // Three roundings to halves change the square root of the error by at most 3 * 2^-11.
    const double reported = report_on(result, qkv.name).weight_error;
    EXPECT_NEAR(std::sqrt(relative_error(source.weights(qkv), weights)), std::sqrt(reported),
                3 * 0x1p-11);
    const std::vector<double> before = source.bias(qkv);
    const std::vector<double> after = packed.bias(qkv);
    EXPECT_EQ(before.size(), after.size());
    EXPECT(before == after);
  }
}

/// A copy of tiny-llama in which column c of every down_proj is 2^(c % 5) times what it was, so
/// that its input scales differ widely.
void write_skewed_model(const std::string& directory) {
  const std::string source = test::fixture("models/tiny-llama");
  const Checkpoint checkpoint = Checkpoint::open(source);
  fs::create_directories(directory);
  fs::copy_file(source + "/config.json", directory + "/config.json");
  std::vector<TensorSpec> specs;
  for (const TensorView& tensor : checkpoint.tensors())
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(directory + "/model.safetensors", specs, {});
  for (const TensorView& tensor : checkpoint.tensors()) {
    std::vector<float> values(static_cast<size_t>(tensor.count()));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    if (tensor.name.find("down_proj") != std::string::npos) {
      const auto cols = static_cast<size_t>(tensor.shape[1]);
      for (size_t i = 0; i < values.size(); ++i)
        values[i] *= static_cast<float>(1 << (i % cols % 5));
    }
    writer.write(tensor.name, std::as_bytes(std::span(values)));
  }
  writer.commit();
}

TEST(the_scale_of_down_is_found_in_the_rows_of_up) {
  const std::string directory = test::temporary_directory();
  write_skewed_model(directory + "/skewed");
  CompressRequest request = request_for("tiny-llama", directory + "/out");
  request.source = directory + "/skewed";
  request.tune = false;
  const CompressResult result = run(request);
  const Opened source(request.source);
  const Opened packed(request.out);
  const BlockSpec& block = source.manifest.blocks[0];
  const LinearSpec& gate_up = block.linears[2];
  const LinearSpec& down = block.linears[3];
  const std::vector<double> old_up = source.weights(gate_up);
  const std::vector<double> new_up = packed.weights(gate_up);
  const std::vector<float>& old_norm = *source.model->find_norm(block.norms[1]);
  const std::vector<float>& new_norm = *packed.model->find_norm(block.norms[1]);
  std::vector<double> weights = packed.weights(down);
  for (int64_t c = 0; c < down.shape.cols; ++c) {
    // Row c of up is s_c times its fit, and a fit is in proportion to what it fits: s_c is read off
    // by regression, to the few percent by which a row's best multiplier differs from one.
    double cross = 0.0;
    double square = 0.0;
    for (int64_t j = 0; j < gate_up.shape.cols; ++j) {
      const int64_t at = (down.shape.cols + c) * gate_up.shape.cols + j;
      const double fitted = new_up[at] * new_norm[j] / old_norm[j];
      cross += fitted * old_up[at];
      square += fitted * fitted;
    }
    const double scale = square / cross;
    for (int64_t i = 0; i < down.shape.rows; ++i) weights[i * down.shape.cols + c] *= scale;
  }
  const double reported = report_on(result, down.name).weight_error;
  EXPECT_NEAR(relative_error(source.weights(down), weights), reported, 0.1 * reported);
  EXPECT(relative_error(source.weights(down), packed.weights(down)) > 2 * reported);
}

TEST(the_number_of_threads_changes_no_byte_and_the_seed_does) {
  const std::string directory = test::temporary_directory();
  CompressRequest request = request_for("tiny-llama", directory + "/one");
  run(request);
  request.out = directory + "/three";
  request.threads = 3;
  run(request);
  EXPECT(model_bytes(directory + "/one") == model_bytes(directory + "/three"));
  request.out = directory + "/seed";
  request.seed = 6;
  run(request);
  EXPECT(model_bytes(directory + "/one") != model_bytes(directory + "/seed"));
}

/// Compresses until `phase` reports a tensor whose name contains `detail`, then aborts.
void abort_at(const CompressRequest& request, const std::string& phase, const std::string& detail) {
  JobControl control;
  control.on_progress = [&](const Progress& progress) {
    if (progress.phase == phase && progress.detail.find(detail) != std::string::npos)
      control.abort = true;
  };
  EXPECT_ERROR(ErrorCode::kAborted, "aborted", compress(request, control));
}

TEST(an_aborted_compression_leaves_nothing_and_resumes_to_the_same_bytes) {
  const std::string directory = test::temporary_directory();
  run(request_for("tiny-llama", directory + "/whole"));
  const std::string expected = model_bytes(directory + "/whole");

  const CompressRequest request = request_for("tiny-llama", directory + "/resumed");
  abort_at(request, "fit", "layers.1.mlp.gate_up");
  EXPECT(!fs::exists(directory + "/resumed"));
  EXPECT(fs::exists(directory + "/resumed.state"));
  abort_at(request, "calibrate", "block 1");  // again, now with a block to resume from
  EXPECT(!fs::exists(directory + "/resumed"));
  const CompressResult result = run(request);
  EXPECT_EQ(result.resumed_blocks, int64_t{1});
  EXPECT_EQ(result.linears.size(), size_t{8});
  EXPECT(model_bytes(directory + "/resumed") == expected);
  EXPECT(!fs::exists(directory + "/resumed.state"));
}

TEST(what_errors_cost_is_measured_once_and_decides_the_same_after_an_abort) {
  const std::string directory = test::temporary_directory();
  const auto measuring = [&](const char* name) {
    CompressRequest request = request_for("tiny-llama", directory + "/" + name);
    request.stages.sensitivity_windows = 2;
    return request;
  };
  run(measuring("whole"));
  const CompressRequest request = measuring("resumed");
  abort_at(request, "sensitivity", "layers.1.mlp.down");
  EXPECT(!fs::exists(request.out));
  abort_at(request, "fit", "layers.1.mlp.gate_up");
  JobControl control;
  int64_t measurements = 0;
  control.on_progress = [&](const Progress& progress) {
    measurements += progress.phase == "sensitivity" ? 1 : 0;
  };
  EXPECT_EQ(compress(request, control).resumed_blocks, int64_t{1});
  EXPECT_EQ(measurements, int64_t{0});
  EXPECT(model_bytes(request.out) == model_bytes(directory + "/whole"));
}

TEST(an_abort_while_writing_leaves_the_old_model_untouched) {
  const std::string directory = test::temporary_directory();
  CompressRequest request = request_for("tiny-llama", directory + "/out");
  run(request);
  const std::string old_model = model_bytes(request.out);
  const std::string old_config = test::read_file(request.out + "/config.json");
  request.seed = 77;
  abort_at(request, "write", "");
  EXPECT(model_bytes(request.out) == old_model);
  EXPECT_EQ(test::read_file(request.out + "/config.json"), old_config);
  EXPECT_EQ(std::distance(fs::directory_iterator(request.out), fs::directory_iterator()), 2);
  EXPECT_EQ(run(request).resumed_blocks, int64_t{2});
  EXPECT(model_bytes(request.out) != old_model);
}

TEST(progress_never_runs_backwards_or_past_its_total) {
  const std::string out = test::temporary_directory() + "/out";
  JobControl control;
  double fitted = 0.0;
  int events = 0;
  control.on_progress = [&](const Progress& progress) {
    ++events;
    EXPECT(progress.loaded <= progress.total);
    if (progress.phase != "fit") return;
    EXPECT(progress.loaded >= fitted);
    fitted = progress.loaded;
  };
  compress(request_for("tiny-llama", out), control);
  EXPECT(events > 20);
}

TEST(too_few_bits_are_refused_with_the_least_that_would_do) {
  const std::string out = test::temporary_directory() + "/out";
  CompressRequest request = request_for("tiny-llama", out);
  request.target.amount = 0.8;
  std::string least;
  try {
    run(request);
  } catch (const Error& error) {
    EXPECT(error.code() == ErrorCode::kInvalidOption);
    for (const auto& [name, value] : error.details())
      if (name == "expected") least = value.substr(std::string("at least ").size());
  }
  EXPECT(!least.empty());
  EXPECT(!fs::exists(out) && !fs::exists(out + ".state"));
  request.target.amount = std::stod(least) - 0.01;
  EXPECT_ERROR(ErrorCode::kInvalidOption, "smallest form", run(request));
  request.target.amount = std::stod(least);
  EXPECT(run(request).bits_per_weight_body <= request.target.amount);
  for (const double bits : {0.0, -1.0, std::nan("")}) {
    request.target.amount = bits;
    EXPECT_ERROR(ErrorCode::kInvalidOption, "make no sense", run(request));
  }
}

TEST(a_model_is_not_compressed_onto_itself_or_twice) {
  const std::string directory = test::temporary_directory();
  CompressRequest request = request_for("tiny-llama", directory + "/once");
  request.out = request.source;
  EXPECT_ERROR(ErrorCode::kInvalidOption, "onto itself", run(request));
  request.out.clear();
  EXPECT_ERROR(ErrorCode::kInvalidOption, "no directory", run(request));
  request.out = directory + "/once";
  run(request);
  request.source = request.out;
  request.out = directory + "/twice";
  EXPECT_ERROR(ErrorCode::kInvalidOption, "quantized already", run(request));
}

TEST(a_real_model_is_compressed_to_its_target_by_mixing_ranks) {
  const std::string out = test::temporary_directory() + "/out";
  CompressRequest request = request_for("tiny-llama", out);
  request.source = test::shared_data("models/stories260K");
  request.threads = 2;
  request.target.amount = 1.5;
  const CompressResult result = run(request);
  EXPECT(result.bits_per_weight_body <= 1.5);
  // One step of 32 in its smallest linear is 64 * 128 signs or 0.04 bits of this body.
  EXPECT(result.bits_per_weight_body > 1.5 - 0.04);
  for (const CompressedLinear& linear : result.linears) EXPECT(linear.output_error < 0.6);
}

TEST(an_original_that_vanishes_under_the_work_is_an_error_by_name_and_nothing_is_written) {
  const std::string source = test::temporary_directory() + "/source";
  fs::copy(test::fixture("models/tiny-llama"), source);
  const std::string file = source + "/model.safetensors";
  const std::string out = test::temporary_directory() + "/out";
  CompressRequest request = request_for("tiny-llama", out);
  request.source = source;
  JobControl control;
  control.on_progress = [&](const Progress& progress) {
    if (progress.phase != "fit" || !fs::exists(file)) return;
    // First its name, so that no look at size and time can tell.
    const int handle = open(file.c_str(), O_RDWR | O_CLOEXEC);
    fs::remove(file);
    EXPECT_EQ(ftruncate(handle, 4096), 0);
    close(handle);
  };
  EXPECT_ERROR(ErrorCode::kFileError, "was lost", compress(request, control));
  EXPECT(!fs::exists(out + "/model.safetensors"));
}

}  // namespace
}  // namespace subbit
