// A synthesized model: that it is what a compressed model of its config would be, to the byte
// count, and that running it is like running one.
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "decoding/decoder.h"
#include "engine.h"
#include "formats/registry.h"
#include "io/checkpoint.h"
#include "models/model.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

/// Widths that are no multiples of 64 or of a quad's rows; `more` members such as "\"a\": 1,".
std::string config(const std::string& more = "") {
  return "{" + more +
         R"("model_type": "llama", "hidden_size": 96, "intermediate_size": 172,
             "num_hidden_layers": 3, "num_attention_heads": 6, "vocab_size": 101,
             "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2})";
}

SynthesizeResult run(const SynthesizeRequest& request) {
  JobControl control;
  return synthesize(request, control);
}

SynthesizeRequest request_for(const std::string& config) {
  return {config, test::temporary_directory() + "/out", 2.0, 7};
}

std::string weights_of(const SynthesizeRequest& request) {
  return test::read_file(request.out + "/model.safetensors");
}

/// The last logits after a few tokens.
std::vector<float> logits_of(const std::string& path, const std::vector<int32_t>& tokens) {
  const Checkpoint checkpoint = Checkpoint::open(path);
  const auto model =
      find_architecture(checkpoint.config(), path).load(checkpoint, WeightMode::kAsStored);
  ThreadPool pool(1);
  const auto backend = make_cpu_backend(pool);
  Decoder decoder(*model, *backend, {16, KvType::kF16});
  std::vector<float> last;
  decoder.forward(tokens, LogitRows::kLast, false, [&](int64_t, Matrix logits) {
    last.assign(logits.row(0), logits.row(0) + logits.cols);
  });
  return last;
}

TEST(a_synthesized_model_has_at_most_the_bits_asked_for_and_says_what_the_file_weighs) {
  for (const char* more : {"", R"("tie_word_embeddings": true,)", R"("num_key_value_heads": 2,)"}) {
    const SynthesizeRequest request = request_for(config(more));
    const SynthesizeResult result = run(request);
    const Inspection inspection = inspect(request.out);
    EXPECT(result.bits_per_weight_body <= request.bits_per_weight);
    // A step of the rank is 0.67 bits on the smallest linear, 96 x 96.
    EXPECT(result.bits_per_weight_body > request.bits_per_weight - 0.67);
    EXPECT_EQ(result.bits_per_weight_body, inspection.bits_per_weight_body);
    EXPECT_EQ(result.bits_per_weight_file, inspection.bits_per_weight_file);
    EXPECT_EQ(result.bytes, inspection.bytes);
    EXPECT_EQ(result.parameters, inspection.parameters);
  }
}

TEST(activations_of_a_synthesized_model_stay_finite_and_its_logits_vary) {
  for (const char* more : {"", R"("tie_word_embeddings": true,)", R"("num_key_value_heads": 2,)"}) {
    const SynthesizeRequest request = request_for(config(more));
    run(request);
    const std::vector<float> logits = logits_of(request.out, {1, 5, 9, 33});
    double sum = 0;
    double squares = 0;
    for (const float logit : logits) {
      EXPECT(std::isfinite(logit));
      sum += logit;
      squares += logit * logit;
    }
    const auto count = static_cast<double>(logits.size());
    const double deviation = std::sqrt(squares / count - sum * sum / count / count);
    // 2.5 is meant; 101 draws of it stray by 7 %, and a tied head knows the last token.
    EXPECT(deviation > 1.5 && deviation < 4.0);
    EXPECT(logits_of(request.out, {1, 5, 9, 34}) != logits);
  }
}

TEST(the_seed_decides_every_byte) {
  SynthesizeRequest request = request_for(config());
  run(request);
  SynthesizeRequest same = request_for(config());
  run(same);
  EXPECT(weights_of(same) == weights_of(request));
  same.seed = 8;
  same.out += "-other";
  run(same);
  EXPECT(weights_of(same) != weights_of(request));
  EXPECT_EQ(weights_of(same).size(), weights_of(request).size());
}

TEST(an_aborted_synthesis_leaves_no_file) {
  const SynthesizeRequest request = request_for(config());
  JobControl control;
  int events = 0;
  control.on_progress = [&](const Progress& progress) {
    EXPECT(progress.loaded <= progress.total);
    if (++events == 3) control.abort = true;
  };
  EXPECT_ERROR(ErrorCode::kAborted, "aborted", synthesize(request, control));
  EXPECT_EQ(events, 3);
  EXPECT(fs::is_empty(request.out));
}

TEST(what_cannot_be_synthesized_is_refused_by_name_before_anything_is_written) {
  SynthesizeRequest request = request_for(config());
  request.bits_per_weight = 0.01;
  EXPECT_ERROR(ErrorCode::kInvalidOption, "at least", run(request));
  request = request_for(R"({"model_type": "gpt2"})");
  EXPECT_ERROR(ErrorCode::kUnsupportedArch, "gpt2", run(request));
  request = request_for(R"({"model_type": "llama"})");
  EXPECT_ERROR(ErrorCode::kCorruptFile, "hidden_size", run(request));
  EXPECT(!fs::exists(request.out));
  // Ten terabytes.
  request = request_for(
      R"({"model_type": "llama", "hidden_size": 1048576, "intermediate_size": 1048576,
          "num_hidden_layers": 1, "num_attention_heads": 8192, "vocab_size": 16777216})");
  request.bits_per_weight = 0.8;
  EXPECT_ERROR(ErrorCode::kFileError, "not enough room", run(request));
}

}  // namespace
}  // namespace subbit
