// A loaded model's requests: determinism, the shared prefix, aborts, disposal, limits.
#include <chrono>
#include <future>
#include <thread>

#include "engine.h"
#include "formats/signs/sign_dot.h"
#include "support/golden.h"
#include "support/test.h"

namespace subbit {
namespace {

std::string tiny() { return test::fixture("models/tiny-llama"); }

std::shared_ptr<LoadedModel> load(LoadRequest request = {}) {
  JobControl control;
  if (request.path.empty()) request.path = tiny();
  if (request.threads == 0) request.threads = 2;
  return LoadedModel::load(request, control);
}

/// What a generation came to.
struct Outcome {
  std::vector<int32_t> tokens;
  GenerateResult result;
  std::string error;  // a code, or empty
};

GenerateRequest request_for(size_t prompt_tokens, int64_t max_tokens) {
  GenerateRequest request;
  request.prompt = test::read_golden(tiny() + "/golden.safetensors").tokens;
  request.prompt.resize(prompt_tokens);
  request.max_tokens = max_tokens;
  return request;
}

Outcome generate(LoadedModel& model, GenerateRequest request,
                 std::shared_ptr<JobControl> control = std::make_shared<JobControl>(),
                 std::function<void(size_t)> on_count = {}) {
  Outcome outcome;
  std::promise<void> done;
  model.generate(
      std::move(request), control,
      [&](int32_t token) {
        outcome.tokens.push_back(token);
        if (on_count) on_count(outcome.tokens.size());
      },
      [&](const GenerateResult& result, const Error* error) {
        outcome.result = result;
        if (error != nullptr) outcome.error = error_code_name(error->code());
        done.set_value();
      });
  done.get_future().wait();
  return outcome;
}

TEST(the_same_request_twice_gives_the_same_tokens_and_reuses_the_prompt) {
  const auto model = load();
  for (const float temperature : {0.0f, 1.0f}) {
    GenerateRequest request = request_for(20, 16);
    request.temperature = temperature;
    request.seed = 9;
    const Outcome first = generate(*model, request);
    const Outcome second = generate(*model, request);
    EXPECT_EQ(first.tokens.size(), size_t{16});
    EXPECT(first.tokens == second.tokens);
    EXPECT_EQ(second.result.cached_tokens, 18);
    EXPECT(generate(*load(), request).tokens == first.tokens);
  }
}

TEST(greedy_generation_follows_the_golden_logits) {
  // The first generated token is the argmax of the reference's last row.
  const auto golden = test::read_golden(tiny() + "/golden.safetensors");
  const auto model = load();
  const Outcome outcome = generate(*model, request_for(40, 1));
  const float* row = golden.logits.data() + 39 * 67;
  EXPECT_EQ(int64_t{outcome.tokens.at(0)}, std::max_element(row, row + 67) - row);
}

TEST(a_kernel_for_prompts_is_one_that_the_machine_has_and_changes_no_token) {
  std::vector<int32_t> first;
  for (const std::string_view name : prompt_kernels()) {
    LoadRequest request;
    request.prompt_kernel = name;
    const auto model = load(request);
    const Outcome outcome = generate(*model, request_for(20, 8));
    if (first.empty()) first = outcome.tokens;
    EXPECT(!first.empty() && outcome.tokens == first);
  }
  LoadRequest request;
  request.prompt_kernel = "abacus";
  EXPECT_ERROR(ErrorCode::kInvalidOption, "no such kernel", load(request));
}

TEST(a_stop_token_the_length_and_the_context_each_end_a_generation) {
  const auto model = load();
  const Outcome all = generate(*model, request_for(20, 8));
  EXPECT(all.result.finish_reason == FinishReason::kLength);
  GenerateRequest stopped = request_for(20, 8);
  stopped.stop_tokens = {all.tokens[3]};
  const Outcome cut = generate(*model, stopped);
  EXPECT(cut.result.finish_reason == FinishReason::kStop);
  EXPECT(cut.tokens.size() <= 3);
  const Outcome full = generate(*model, request_for(40, 1000));
  EXPECT(full.result.finish_reason == FinishReason::kContext);
  EXPECT_EQ(full.tokens.size(), size_t{64 - 40 + 1});  // the last needs no place of its own
  EXPECT_EQ(generate(*model, request_for(5, 0)).tokens.size(), size_t{0});
}

TEST(an_abort_between_tokens_ends_the_generation_and_leaves_the_model_usable) {
  const auto model = load();
  const auto control = std::make_shared<JobControl>();
  const Outcome outcome = generate(*model, request_for(5, 1000), control, [&](size_t count) {
    if (count == 3) control->abort = true;
  });
  EXPECT_EQ(outcome.error, std::string("ABORTED"));
  EXPECT_EQ(outcome.tokens.size(), size_t{3});
  EXPECT(generate(*model, request_for(20, 8)).tokens ==
         generate(*load(), request_for(20, 8)).tokens);
}

std::string fill(LoadedModel& model, int64_t tokens, bool aborted = false) {
  std::string error;
  std::promise<void> done;
  const auto control = std::make_shared<JobControl>();
  control->abort = aborted;
  model.fill_context(tokens, control, [&](const Error* failure) {
    if (failure != nullptr) error = error_code_name(failure->code());
    done.set_value();
  });
  done.get_future().wait();
  return error;
}

TEST(a_filled_context_is_found_in_the_cache_and_forgotten_when_it_is_not_wanted) {
  const auto model = load();
  const GenerateRequest plain = request_for(20, 8);
  const Outcome before = generate(*model, plain);
  EXPECT_EQ(fill(*model, 30), std::string());
  GenerateRequest deep = request_for(20, 8);
  deep.prompt.insert(deep.prompt.begin(), 30, 0);
  const Outcome outcome = generate(*model, deep);
  EXPECT_EQ(outcome.result.cached_tokens, 30);
  EXPECT_EQ(outcome.result.prompt_tokens, 50);
  EXPECT_EQ(outcome.tokens.size(), size_t{8});
  EXPECT(generate(*model, plain).tokens == before.tokens);
  EXPECT_EQ(fill(*model, 65), std::string("CONTEXT_OVERFLOW"));
  EXPECT_EQ(fill(*model, 64, true), std::string("ABORTED"));
  EXPECT(generate(*model, plain).tokens == before.tokens);
}

TEST(a_generation_tells_the_processor_time_of_both_its_parts) {
  const auto model = load();
  const GenerateResult result = generate(*model, request_for(20, 8)).result;
  EXPECT(result.prefill_cpu_ms > 0 && result.decode_cpu_ms > 0);
}

TEST(what_decoding_reads_is_the_file_without_the_embeddings_that_are_only_looked_up) {
  for (const char* name : {"tiny-llama", "tiny-linear"}) {
    const auto model = load({.path = test::fixture(std::string("models/") + name)});
    const Inspection inspection = inspect(test::fixture(std::string("models/") + name));
    uint64_t bytes = 0;
    uint64_t embedding = 0;
    bool has_head = false;
    for (const InspectedTensor& tensor : inspection.tensors) {
      bytes += tensor.bytes;
      if (tensor.name.starts_with("model.embed_tokens")) embedding = tensor.bytes;
      has_head |= tensor.name.starts_with("lm_head");
    }
    const ModelFacts& facts = model->facts();
    const uint64_t unread =
        has_head ? embedding - embedding / static_cast<uint64_t>(facts.vocab_size) : 0;
    EXPECT_EQ(facts.weight_bytes_per_token, bytes - unread);
  }
}

TEST(memory_is_read_at_some_speed_and_a_measurement_can_be_aborted) {
  JobControl control;
  EXPECT(measure_read_bandwidth(1, control) > 1e8);  // a tenth of the slowest machine's
  control.abort = true;
  EXPECT_ERROR(ErrorCode::kAborted, "aborted", measure_read_bandwidth(1, control));
  EXPECT(peak_memory_bytes() > (uint64_t{512} << 20));  // its buffer
}

TEST(disposing_while_generating_ends_it_and_refuses_what_waits) {
  const auto model = load();
  std::promise<void> started;
  std::promise<std::string> running;
  std::promise<std::string> waiting;
  const auto code = [](const Error* error) {
    return std::string(error == nullptr ? "" : error_code_name(error->code()));
  };
  GenerateRequest endless = request_for(5, 1000);
  bool first = true;
  model->generate(
      endless, std::make_shared<JobControl>(),
      [&](int32_t) {
        if (first) started.set_value();
        first = false;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      },
      [&](const GenerateResult&, const Error* error) { running.set_value(code(error)); });
  model->generate(
      endless, std::make_shared<JobControl>(), [](int32_t) {},
      [&](const GenerateResult&, const Error* error) { waiting.set_value(code(error)); });
  started.get_future().wait();
  model->dispose();
  model->dispose();
  EXPECT_EQ(running.get_future().get(), std::string("ABORTED"));
  EXPECT_EQ(waiting.get_future().get(), std::string("DISPOSED"));
  EXPECT_EQ(generate(*model, endless).error, std::string("DISPOSED"));
}

TEST(a_bad_request_is_an_error_of_that_request_only) {
  const auto model = load();
  EXPECT_EQ(generate(*model, request_for(0, 4)).error, std::string("INVALID_OPTION"));
  GenerateRequest foreign = request_for(3, 4);
  foreign.prompt[1] = 67;
  EXPECT_EQ(generate(*model, foreign).error, std::string("INVALID_OPTION"));
  GenerateRequest long_prompt = request_for(40, 4);
  long_prompt.prompt.resize(65, 3);
  EXPECT_EQ(generate(*model, long_prompt).error, std::string("CONTEXT_OVERFLOW"));
  EXPECT_EQ(generate(*model, request_for(4, 4)).error, std::string());
}

TEST(options_of_loading_out_of_range_are_refused) {
  LoadRequest context;
  context.context_length = 65;
  EXPECT_ERROR(ErrorCode::kInvalidOption, "1 to 64", load(context));
  LoadRequest threads;
  threads.threads = 257;
  EXPECT_ERROR(ErrorCode::kInvalidOption, "threads", load(threads));
  LoadRequest nowhere;
  nowhere.path = "no/such/model";
  EXPECT_ERROR(ErrorCode::kFileError, "no/such/model", load(nowhere));
}

TEST(facts_say_what_was_loaded) {
  LoadRequest request;
  request.context_length = 32;
  const auto model = load(request);
  EXPECT_EQ(model->facts().context_length, 32);
  EXPECT_EQ(model->facts().trained_context_length, 64);
  EXPECT_EQ(model->facts().vocab_size, 67);
  EXPECT_NEAR(model->facts().bits_per_weight_body, 32, 0.6);  // F32, and its norms
}

TEST(evaluating_a_model_against_itself_finds_no_difference) {
  EvaluateRequest request;
  request.path = tiny();
  request.teacher_path = tiny();
  request.windows = {test::read_golden(tiny() + "/golden.safetensors").tokens};
  request.threads = 2;
  JobControl control;
  const EvaluateResult result = evaluate(request, control);
  EXPECT_EQ(result.tokens, 39);
  EXPECT_NEAR(result.perplexity, result.teacher_perplexity, 1e-9);
  EXPECT_NEAR(result.kl_mean, 0, 1e-12);
  EXPECT_EQ(result.top1_agreement, 1.0);
  request.teacher_path = "";
  EXPECT(!evaluate(request, control).has_teacher);
  request.windows = {{1}};
  EXPECT_ERROR(ErrorCode::kInvalidOption, "nothing to predict", evaluate(request, control));
}

TEST(stories_continue_as_recorded) {
  // The golden prompt begins with the greedy text recorded beside the shared model, so its first
  // tokens must call forth the others. Its probabilities are far from ties.
  LoadRequest request;
  request.path = test::shared_data("models/stories260K");
  const auto golden = test::read_golden(test::fixture("stories/stories260K.safetensors"));
  const auto model = load(request);
  GenerateRequest story;
  story.prompt.assign(golden.tokens.begin(), golden.tokens.begin() + 6);
  story.max_tokens = static_cast<int64_t>(golden.tokens.size()) - 6;
  const Outcome outcome = generate(*model, story);
  EXPECT(std::equal(outcome.tokens.begin(), outcome.tokens.end(), golden.tokens.begin() + 6));
}

}  // namespace
}  // namespace subbit
