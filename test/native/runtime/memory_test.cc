// Memory of a loaded model: what is planned from headers is what is touched, what does not fit is
// refused before anything is loaded, and an allocation that fails anywhere is an error by name.
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <unistd.h>

#include "engine.h"
#include "support/allocations.h"
#include "support/golden.h"
#include "support/test.h"

namespace subbit {
namespace {

const char* const kModels[] = {"models/tiny-llama", "models/tiny-llama3", "models/tiny-mistral",
                               "models/tiny-linear"};

LoadRequest request_for(const std::string& path) {
  LoadRequest request;
  request.path = path;
  request.threads = 2;
  request.over_limit = OverLimit::kIgnore;
  return request;
}

std::shared_ptr<LoadedModel> load(const LoadRequest& request) {
  JobControl control;
  return LoadedModel::load(request, control);
}

/// Fills the context: a prompt, then tokens until no more go in. Empty, or an error's code.
std::string run_full(LoadedModel& model) {
  GenerateRequest request;
  const int64_t context = model.facts().context_length;
  request.prompt.assign(static_cast<size_t>(context - context / 4), 1);
  request.max_tokens = context;
  std::promise<std::string> done;
  model.generate(
      std::move(request), std::make_shared<JobControl>(), [](int32_t) {},
      [&](const GenerateResult&, const Error* error) {
        done.set_value(error == nullptr ? "" : std::string(error_code_name(error->code())));
      });
  return done.get_future().get();
}

TEST(a_full_context_touches_no_more_scratch_than_its_headers_plan) {
  for (const char* name : kModels) {
    const auto model = load(request_for(test::fixture(name)));
    EXPECT_EQ(run_full(*model), "");
    std::promise<void> scored;
    model->score(std::vector<int32_t>(static_cast<size_t>(model->facts().context_length), 1),
                 std::make_shared<JobControl>(),
                 [&](const ScoreResult&, const Error*) { scored.set_value(); });
    scored.get_future().wait();
    const MemoryReport report = model->memory();
    EXPECT_EQ(report.arena_overflow, uint64_t{0});
    EXPECT(report.arena_extent <= report.arena_planned);
    // A plan that is far too large would fit nothing.
    EXPECT(report.arena_extent * 2 >= report.arena_planned);
  }
}

TEST(an_estimate_is_the_sum_of_its_parts) {
  MemoryRequest request;
  request.path = test::fixture("models/tiny-llama");
  request.process_bytes = 1000;
  request.tokenizer_bytes = 70;
  const MemoryEstimate e = estimate_memory(request);
  EXPECT_EQ(e.mapped, e.weights_body + e.codebooks + e.embeddings + e.lm_head + e.file_rest);
  EXPECT_EQ(e.total, e.mapped + e.private_bytes);
  EXPECT_EQ(e.private_bytes, e.kv_cache + e.activations + e.scratch + e.rope + e.loaded +
                                 e.sampling + e.threads + e.tokenizer + e.runtime);
  EXPECT_EQ(e.mapped,
            std::filesystem::file_size(test::fixture("models/tiny-llama/model.safetensors")));
  EXPECT(e.peak_load <= e.total);
}

/// A copy of a model whose weight file ends with its header.
std::string headers_of(const std::string& name) {
  const std::string from = test::fixture(name);
  const std::string to = test::temporary_directory();
  std::filesystem::copy(from + "/config.json", to + "/config.json");
  std::ifstream in(from + "/model.safetensors", std::ios::binary);
  uint64_t length = 0;
  in.read(reinterpret_cast<char*>(&length), sizeof(length));
  std::string text(length, '\0');
  in.read(text.data(), static_cast<std::streamsize>(length));
  std::ofstream out(to + "/model.safetensors", std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out.write(text.data(), static_cast<std::streamsize>(length));
  return to;
}

TEST(an_estimate_needs_headers_alone) {
  for (const char* name : {"models/tiny-llama", "models/tiny-mistral"}) {
    MemoryRequest request;
    request.process_bytes = 1;
    request.path = test::fixture(name);
    const MemoryEstimate whole = estimate_memory(request);
    request.path = headers_of(name);
    const MemoryEstimate headers = estimate_memory(request);
    EXPECT_EQ(headers.total, whole.total);
    EXPECT_EQ(headers.weights_body, whole.weights_body);
    // The same directory is no model to load.
    EXPECT_ERROR(ErrorCode::kCorruptFile, "past the end", load(request_for(request.path)));
  }
}

/// A model of its own that a test may spoil.
std::string copy_of(const std::string& name) {
  const std::string to = test::temporary_directory();
  for (const char* file : {"/config.json", "/model.safetensors"}) {
    std::filesystem::copy(test::fixture(name) + file, to + file);
  }
  return to;
}

/// The model with room for so many positions: caches that are large beside the process's noise.
std::string with_context(const std::string& name, int64_t positions) {
  const std::string directory = copy_of(name);
  std::ifstream in(directory + "/config.json");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  const std::string field = "\"max_position_embeddings\": ";
  const size_t at = text.find(field) + field.size();
  text.replace(at, text.find_first_of(",\n}", at) - at, std::to_string(positions));
  std::ofstream(directory + "/config.json") << text;
  return directory;
}

TEST(an_int8_cache_takes_a_byte_a_column_and_a_scale_a_row) {
  MemoryRequest request;
  request.path = test::fixture("models/tiny-llama");
  const uint64_t unsaid = estimate_memory(request).kv_cache;
  request.kv_cache = KvCacheType::kF16;
  const uint64_t halves = estimate_memory(request).kv_cache;
  request.kv_cache = KvCacheType::kF32;
  EXPECT_EQ(estimate_memory(request).kv_cache, 2 * halves);
  request.kv_cache = KvCacheType::kI8;
  const uint64_t codes = estimate_memory(request).kv_cache;
  EXPECT(codes > halves / 2);
  EXPECT(codes < halves);
  EXPECT_EQ(unsaid, halves);
  LoadRequest loading = request_for(request.path);
  loading.kv_cache = KvCacheType::kI8;
  const auto model = load(loading);
  EXPECT_EQ(run_full(*model), "");
  EXPECT(model->memory().kv_cache_used <= codes);
  EXPECT(model->memory().kv_cache_used > codes / 2);
}

TEST(what_does_not_fit_is_refused_by_name_or_shrunk) {
  LoadRequest request = request_for(with_context("models/tiny-llama", 1 << 17));
  request.over_limit = OverLimit::kThrow;
  MemoryRequest asked;
  asked.path = request.path;
  asked.threads = request.threads;
  const MemoryEstimate full = estimate_memory(asked);
  EXPECT_EQ(full.context_length, 1 << 17);
  // Room for about half of what depends on the context.
  request.memory_budget = full.total - (full.kv_cache + full.rope) / 2;
  EXPECT_ERROR(ErrorCode::kInsufficientMemory, "would fit", load(request));
  request.over_limit = OverLimit::kShrinkContext;
  const auto model = load(request);
  EXPECT(model->facts().context_length < full.context_length);
  EXPECT(model->facts().context_length > full.context_length / 8);
  EXPECT(model->memory().planned.fits());
  request.memory_budget = 1;
  EXPECT_ERROR(ErrorCode::kInsufficientMemory, "no context", load(request));
  request.over_limit = OverLimit::kIgnore;
  EXPECT_EQ(load(request)->facts().context_length, full.context_length);
}

TEST(trimming_gives_the_unused_cache_back_and_keeps_the_context) {
  const auto model = load(request_for(test::fixture("models/tiny-llama")));
  const auto trim = [&](LoadedModel::Trim what) {
    std::promise<uint64_t> done;
    model->trim(what, std::make_shared<JobControl>(),
                [&](uint64_t bytes, const Error*) { done.set_value(bytes); });
    return done.get_future().get();
  };
  GenerateRequest request;
  request.prompt = test::read_golden(test::fixture("models/tiny-llama/golden.safetensors")).tokens;
  request.prompt.resize(20);
  request.max_tokens = 8;
  const auto run = [&] {
    std::vector<int32_t> tokens;
    std::promise<int64_t> done;
    model->generate(
        request, std::make_shared<JobControl>(), [&](int32_t token) { tokens.push_back(token); },
        [&](const GenerateResult& result, const Error*) { done.set_value(result.cached_tokens); });
    const int64_t cached = done.get_future().get();
    return std::make_pair(tokens, cached);
  };
  const auto first = run();
  EXPECT(model->memory().kv_cache_used > 0);
  trim(LoadedModel::Trim::kKeepContext);
  const auto second = run();
  EXPECT(second.first == first.first);
  EXPECT_EQ(second.second, 18);
  EXPECT(trim(LoadedModel::Trim::kForgetContext) > 0);
  EXPECT_EQ(model->memory().kv_cache_used, uint64_t{0});
  const auto third = run();
  EXPECT(third.first == first.first);
  EXPECT_EQ(third.second, 0);
}

TEST(a_weight_file_that_is_cut_or_rewritten_under_a_model_is_an_error_by_name) {
  const std::string directory = copy_of("models/tiny-llama");
  const std::string file = directory + "/model.safetensors";
  const auto model = load(request_for(directory));
  EXPECT_EQ(run_full(*model), "");
  std::filesystem::resize_file(file, 100);
  EXPECT_EQ(run_full(*model), "FILE_ERROR");
  EXPECT_ERROR(ErrorCode::kCorruptFile, "", load(request_for(directory)));
}

/// A model's weight file, which loses its tensors at a word, and first its name: then no look at
/// size and time can find out, and only reading a lost page does.
class SpoiledFile {
 public:
  explicit SpoiledFile(const std::string& path)
      : path_(path), handle_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {}
  ~SpoiledFile() { close(handle_); }
  void spoil() const {
    std::filesystem::remove(path_);
    EXPECT_EQ(ftruncate(handle_, 4096), 0);
  }

 private:
  std::string path_;
  int handle_;
};

TEST(weights_that_vanish_between_the_looks_are_an_error_by_name_and_no_crash) {
  const std::string directory = copy_of("models/tiny-llama");
  const SpoiledFile file(directory + "/model.safetensors");
  const auto model = load(request_for(directory));
  EXPECT_EQ(run_full(*model), "");
  file.spoil();
  EXPECT_EQ(run_full(*model), "FILE_ERROR");
  EXPECT_EQ(run_full(*model), "FILE_ERROR");
  model->dispose();
  EXPECT_EQ(run_full(*load(request_for(test::fixture("models/tiny-llama")))), "");
}

TEST(an_evaluation_whose_weights_vanish_is_an_error_by_name) {
  const std::string directory = copy_of("models/tiny-llama");
  const SpoiledFile file(directory + "/model.safetensors");
  EvaluateRequest request;
  request.path = directory;
  request.threads = 2;
  request.windows = {std::vector<int32_t>(20, 1), std::vector<int32_t>(20, 2)};
  JobControl control;
  control.on_progress = [&](const Progress& progress) {
    if (progress.phase == std::string("evaluate") && progress.loaded == 1) file.spoil();
  };
  EXPECT_ERROR(ErrorCode::kFileError, "was lost", evaluate(request, control));
}

TEST(a_weight_file_that_is_replaced_or_removed_under_a_model_does_no_harm) {
  const std::string directory = copy_of("models/tiny-llama");
  const std::string file = directory + "/model.safetensors";
  const auto model = load(request_for(directory));
  std::ofstream(directory + "/other") << "something else";
  std::filesystem::rename(directory + "/other", file);
  EXPECT_EQ(run_full(*model), "");
  std::filesystem::remove(file);
  EXPECT_EQ(run_full(*model), "");
}

/// Loads, generates and disposes with the nth allocation failing. Says whether it came to that.
bool survives(const std::string& path, int64_t nth) {
  test::fail_allocation(nth);
  std::string code;
  try {
    const auto model = load(request_for(path));
    code = run_full(*model);
    model->dispose();
  } catch (...) {
    code = error_code_name(current_error().code());
  }
  const bool came = test::allocation_failed();
  test::fail_allocation(0);
  if (came && code != "INSUFFICIENT_MEMORY" && code != "") {
    test::fail(__FILE__, __LINE__, "allocation " + std::to_string(nth) + " ended in " + code);
  }
  return came;
}

TEST(whichever_allocation_fails_the_error_has_a_name_nothing_leaks_and_the_next_load_works) {
  const std::string path = test::fixture("models/tiny-mistral");
  EXPECT(!survives(path, 1 << 30));  // what is made once in a process is made
  int64_t before = test::live_blocks();
  int64_t nth = 1;
  while (survives(path, nth)) {
    EXPECT_EQ(test::live_blocks(), before);
    before = test::live_blocks();
    // Every one of the first thousand, where headers are read and objects made; then a sample.
    nth += nth < 1000 ? 1 : 7;
  }
  EXPECT(nth > 100);
  EXPECT_EQ(run_full(*load(request_for(path))), "");
}

}  // namespace
}  // namespace subbit
