// Whole models in every stored form, compressed by the product's own compressor and run by the
// unchanged host: along the processor's tokens the GPU gives the processor's logits. One model is
// wide enough for the blocks of code84; the other two are real.
#include <algorithm>
#include <cstdlib>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "backend/gpu/gpu_backend.h"
#include "base/rng.h"
#include "engine.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "runtime/answers.h"
#include "runtime/devices.h"
#include "support/fake_metal/fake_metal.h"
#include "support/files.h"
#include "support/golden.h"
#include "support/gpu_runner.h"
#include "support/test.h"

namespace subbit {
namespace {

using Forms = CompressStages::Forms;
using Rule = KeepRule::Rule;

/// A form of a body's linears, by what makes the compressor choose it.
struct Form {
  const char* name;  // that `inspect` gives one of the body's tensors
  Forms forms = Forms::kFactored;
  double bits = 0;  // of the body; 0: `kept` holds for all of it
  Rule kept = Rule::kBits;
  int kept_bits = 0;
  int end_bits = 8;  // of embedding and head
};

const std::vector<Form> kForms = {
    {"factored", Forms::kFactored, 1.8, Rule::kBits, 0, 4},
    {"table", Forms::kTables, 2.4, Rule::kBits, 0, 3},
    {"sign + sign", Forms::kCodes, 2.6, Rule::kBits, 0, 2},
    {"code84", Forms::kCodes, 0.9, Rule::kBits, 0, 8},
    {"int8", Forms::kFactored, 0, Rule::kBits, 8, 8},
    {"int4", Forms::kFactored, 0, Rule::kBits, 4, 16},
    {"int3", Forms::kFactored, 0, Rule::kBits, 3, 8},
    {"int2", Forms::kFactored, 0, Rule::kBits, 2, 8},
    {"F", Forms::kFactored, 0, Rule::kAsStored, 0, 16},  // F32, F16 or BF16
};

std::vector<int32_t> random_tokens(int64_t vocab, int64_t count) {
  Rng rng(5);
  std::vector<int32_t> tokens = {1};
  while (std::ssize(tokens) < count) {
    tokens.push_back(static_cast<int32_t>(rng.next() % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

/// `source` in that form, fitted and not tuned.
std::string compressed(const std::string& source, const Form& form) {
  const Checkpoint checkpoint = Checkpoint::open(source);
  const int64_t vocab = find_architecture(checkpoint.config(), source)
                            .parse_config(checkpoint.config(), source)
                            .vocab_size;
  CompressRequest request;
  request.source = source;
  request.out = test::temporary_directory() + "/model";
  request.target.amount = form.bits > 0 ? form.bits : 33;
  request.ends = {form.end_bits, 0};
  if (form.bits == 0) request.keep = {{"*", form.kept, static_cast<double>(form.kept_bits)}};
  for (int w = 0; w < 4; ++w) request.calibration.push_back(random_tokens(vocab, 16));
  request.effort = Effort::kFast;
  request.threads = 1;
  request.tune = false;
  request.stages.forms = form.forms;
  request.stages.gradient_windows = 0;
  request.stages.teacher_tokens = 0;
  JobControl control;
  compress(request, control);
  return request.out;
}

bool holds(const std::string& path, const char* form) {
  return std::ranges::any_of(inspect(path).tensors, [&](const InspectedTensor& tensor) {
    return tensor.body && tensor.format.find(form) != std::string::npos;
  });
}

int32_t likeliest(std::span<const float> logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

void add_rows(Answers& answers, const std::vector<float>& logits, size_t vocab) {
  for (size_t at = 0; at < logits.size(); at += vocab) {
    const std::span<const float> row = std::span(logits).subspan(at, vocab);
    answers.logits.emplace_back(row.begin(), row.end());
    answers.likeliest = likeliest(row);
  }
}

/// A prompt that goes by matrices, a few tokens and single ones, each the processor's likeliest:
/// all logits are the processor's but for roundings.
void expect_agreement(const std::string& path, const std::string& form) {
  test::Runner cpu(path, KvType::kF16, 1);
  const auto rounding = otherwise_rounding(*cpu.backend);
  Decoder rounded(*cpu.model, *rounding, {64, KvType::kF16});
  test::GpuRunner gpu(path, KvType::kF16, gpu_policy(10));
  const auto vocab = static_cast<size_t>(cpu.model->config().vocab_size);
  Answers reference;
  Answers other;
  Answers given;
  std::vector<int32_t> next = random_tokens(cpu.model->config().vocab_size, 11);
  for (const size_t count : {3, 1, 1, 0}) {
    const std::vector<float> logits = cpu.forward(next);
    add_rows(reference, logits, vocab);
    add_rows(other, test::forward(rounded, next), vocab);
    add_rows(given, gpu.forward(next), vocab);
    next.assign(count, likeliest(std::span(logits).last(vocab)));
  }
  const std::string wrong = disagreement(reference, other, given);
  if (!wrong.empty()) test::fail(__FILE__, __LINE__, path + ", " + form + ": " + wrong);
}

/// The form on the GPU, if the model is wide enough for the compressor to choose it.
void expect_form_agrees(const std::string& source, const Form& form) {
  const std::string model = compressed(source, form);
  if (holds(model, form.name)) {
    expect_agreement(model, form.name);
  } else {
    test::fail(__FILE__, __LINE__, "no tensor is of the form " + std::string(form.name));
  }
}

/// A checkpoint of random floats: one layer, wide enough for blocks of code84.
std::string random_checkpoint() {
  const std::string directory = test::temporary_directory();
  const std::string config = R"({"model_type": "llama", "vocab_size": 67, "hidden_size": 256,
      "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4,
      "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
      "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2})";
  test::write_file(directory + "/config.json", config);
  const Json json = Json::parse(config, "test");
  const Manifest manifest = find_architecture(json, "test").manifest(json, "test");
  std::vector<TensorSpec> specs = {{manifest.embedding, DType::kF32, {67, 256}},
                                   {manifest.final_norm, DType::kF32, {256}}};
  for (const BlockSpec& block : manifest.blocks) {
    for (const std::string& norm : block.norms) specs.push_back({norm, DType::kF32, {256}});
    for (const LinearSpec& linear : block.linears) {
      for (size_t i = 0; i < linear.parts.size(); ++i) {
        specs.push_back(
            {linear.parts[i] + ".weight", DType::kF32, {linear.part_rows[i], linear.shape.cols}});
      }
    }
  }
  SafetensorsWriter writer(directory + "/model.safetensors", specs, {});
  Rng rng(11);
  for (const TensorSpec& spec : specs) {
    std::vector<float> values(static_cast<size_t>(spec.bytes()) / sizeof(float));
    // Of unit variance in, unit variance out.
    for (float& value : values) value = spec.shape.size() == 1 ? 1.0f : rng.normal() / 16.0f;
    writer.write(spec.name, std::as_bytes(std::span(values)));
  }
  writer.commit();
  return directory;
}

TEST(the_gpu_gives_the_processors_logits_for_whole_models_of_every_form) {
  fake_metal::reset();
  const std::string wide = random_checkpoint();
  for (const Form& form : kForms) expect_form_agrees(wide, form);
}

TEST(the_gpu_gives_the_processors_logits_for_stories260K_in_every_form) {
  const std::string source = test::shared_data("models/stories260K");
  fake_metal::reset();
  for (const Form& form : kForms) {
    // Its rows of 64 and 172 columns hold no block of code84.
    if (std::string_view(form.name) != "code84") expect_form_agrees(source, form);
  }
}

/// `device: 'metal'`, the trial and all, beside the processor.
void expect_loads_and_writes_the_same(const std::string& path) {
  const auto scores = [&](DeviceChoice device, std::vector<int32_t>& tokens) {
    LoadRequest request;
    request.path = path;
    request.threads = 1;
    request.context_length = 48;
    request.device = device;
    JobControl control;
    const auto model = LoadedModel::load(request, control);
    if (tokens.empty()) {
      GenerateRequest ask;
      tokens = ask.prompt = {1, 403, 407};
      ask.max_tokens = 6;
      std::promise<void> done;
      model->generate(
          ask, std::make_shared<JobControl>(), [&](int32_t token) { tokens.push_back(token); },
          [&](const GenerateResult&, const Error*) { done.set_value(); });
      done.get_future().wait();
    }
    std::promise<std::vector<float>> scored;
    model->score(
        tokens, std::make_shared<JobControl>(),
        [&](const ScoreResult& result, const Error*) { scored.set_value(result.logprobs); });
    return scored.get_future().get();
  };
  std::vector<int32_t> tokens;
  const std::vector<float> cpu = scores(DeviceChoice::kCpu, tokens);
  const std::vector<float> metal = scores(DeviceChoice::kMetal, tokens);
  EXPECT_EQ(cpu.size(), metal.size());
  for (size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(cpu[i], metal[i], 0.02);
}

// Minutes of a processor that plays a GPU: asked for by npm run test:metal -- --all.
TEST(the_gpu_gives_the_processors_logits_for_stories15M_in_every_form) {
  if (std::getenv("SUBBIT_LONG_TESTS") == nullptr) test::skip("a long test");
  const std::string source = test::shared_data("models/stories15M");
  fake_metal::reset();
  set_gpu(open_metal_device);
  for (const Form& form : kForms) {
    const std::string model = compressed(source, form);
    EXPECT(holds(model, form.name));
    expect_agreement(model, form.name);
    expect_loads_and_writes_the_same(model);
  }
  set_gpu(nullptr);
}

}  // namespace
}  // namespace subbit
