// The GPU back end against the processor, whole models: the unchanged host over real shaders. On
// Linux the device is the fake Metal, which runs the shaders and refuses what a Mac would.
#include "backend/gpu/gpu_backend.h"

#include <algorithm>
#include <cmath>

#include "base/buffer.h"
#include "base/rng.h"
#include "engine.h"
#include "support/allocations.h"
#include "support/fake_metal/fake_metal.h"
#include "support/golden.h"
#include "support/gpu_runner.h"
#include "support/plain_device.h"
#include "support/test.h"

namespace subbit {
namespace {

using fake_metal::Settings;

/// Back ends agree in every integer; rho, rotations, softmax and silu differ by roundings, and now
/// and then a rounding moves one 8-bit code of hundreds by one. All eight-bit rounding together
/// costs 1.5e-3 nats on stories15M, so a few codes of it cost a hundredth of that.
constexpr double kDivergence = 5e-5;

GpuPolicy policy_with(SignKernel kernel) {
  GpuPolicy policy = gpu_policy(7);
  policy.sign_kernel = kernel;
  return policy;
}

std::vector<int32_t> tokens_for(int64_t vocab, int64_t count) {
  Rng rng(5);
  std::vector<int32_t> tokens = {1};
  while (std::ssize(tokens) < count) {
    tokens.push_back(static_cast<int32_t>(rng.next() % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

/// A prompt in one call and then tokens one by one, on both back ends.
void expect_agreement(const std::string& path, KvType kv, const GpuPolicy& policy,
                      int64_t prompt = 5, int64_t decoded = 3) {
  test::Runner cpu(path, kv);
  test::GpuRunner gpu(path, kv, policy);
  const int64_t vocab = cpu.model->config().vocab_size;
  const std::vector<int32_t> tokens = tokens_for(vocab, prompt + decoded);
  const std::span<const int32_t> all(tokens);
  const auto compare = [&](std::span<const int32_t> some) {
    const std::vector<float> a = cpu.forward(some);
    const std::vector<float> b = gpu.forward(some);
    EXPECT(a.size() == b.size());
    for (size_t t = 0; t < some.size(); ++t) {
      const auto row = [&](const std::vector<float>& logits) {
        return std::span(logits).subspan(t * static_cast<size_t>(vocab),
                                         static_cast<size_t>(vocab));
      };
      EXPECT_NEAR(test::divergence(row(a), row(b)), 0, kDivergence);
    }
  };
  compare(all.first(static_cast<size_t>(prompt)));
  for (int64_t i = prompt; i < prompt + decoded; ++i) {
    compare(all.subspan(static_cast<size_t>(i), 1));
  }
}

/// A compressed model of random codes, of the given shape.
std::string synthesized(const std::string& more) {
  SynthesizeRequest request;
  request.config = R"({"model_type": "llama", "vocab_size": 67, "max_position_embeddings": 64,
                       "bos_token_id": 1, "eos_token_id": 2, )" +
                   more + "}";
  request.out = test::temporary_directory() + "/model";
  request.bits_per_weight = 3;
  JobControl control;
  synthesize(request, control);
  return request.out;
}

TEST(the_gpu_gives_the_processors_logits_for_plain_weights_of_every_kind) {
  fake_metal::reset();
  for (const char* name : {"tiny-llama", "tiny-llama3", "tiny-linear", "tiny-mistral"}) {
    expect_agreement(test::fixture(std::string("models/") + name), KvType::kF32, gpu_policy(7));
  }
  EXPECT_EQ(fake_metal::counts().live_objects, 0);
}

TEST(the_gpu_gives_the_processors_logits_for_a_compressed_model_by_either_kernel) {
  const std::string model = test::fixture("../../share/stories15M");
  for (const SignKernel kernel : {SignKernel::kPopcount, SignKernel::kSelect}) {
    fake_metal::reset();
    expect_agreement(model, KvType::kF16, policy_with(kernel), 3, 2);
    EXPECT_EQ(fake_metal::counts().live_objects, 0);
  }
}

TEST(the_gpu_gives_the_processors_logits_on_stories260K) {
  const std::string model = test::shared_data("models/stories260K");
  fake_metal::reset();
  expect_agreement(model, KvType::kF16, gpu_policy(7));
}

// Head widths: whole chunks, whole pairs but no chunks, neither; grouped queries; odd widths.
TEST(fusions_and_their_stand_ins_agree_with_the_processor) {
  for (const char* shape : {R"("hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 2,
           "num_attention_heads": 3, "num_key_value_heads": 1)",
                            R"("hidden_size": 96, "intermediate_size": 170, "num_hidden_layers": 2,
           "num_attention_heads": 6)",
                            R"("hidden_size": 60, "intermediate_size": 128, "num_hidden_layers": 1,
           "num_attention_heads": 10)"}) {
    for (const KvType kv : {KvType::kF16, KvType::kF32, KvType::kI8}) {
      fake_metal::reset();
      expect_agreement(synthesized(shape), kv, gpu_policy(7));
    }
  }
}

/// Counts of one decoded token of a model of three layers.
GpuCounts counts_of_a_token(KvType kv) {
  fake_metal::reset();
  const std::string model = synthesized(
      R"("hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
         "num_attention_heads": 2)");
  test::GpuRunner gpu(model, kv, gpu_policy(7));
  const std::vector<int32_t> tokens = {1, 5, 9};
  gpu.forward(tokens);
  const GpuCounts before = gpu.backend().counts();
  const int32_t next = 7;
  gpu.forward({&next, 1});
  const GpuCounts after = gpu.backend().counts();
  EXPECT_EQ(after.scratch_bytes, before.scratch_bytes);
  EXPECT_EQ(after.copied_bytes, before.copied_bytes);
  GpuCounts one;
  one.command_buffers = after.command_buffers - before.command_buffers;
  one.dispatches = after.dispatches - before.dispatches;
  one.barriers = after.barriers - before.barriers;
  return one;
}

TEST(a_token_takes_nine_dispatches_a_layer_and_one_command_buffer) {
  const GpuCounts one = counts_of_a_token(KvType::kF16);
  EXPECT_EQ(one.command_buffers, 1);
  // Embedding, its first norm, nine a layer, and the head.
  EXPECT_EQ(one.dispatches, 3 * 9 + 3);
  // A chain: each but the first waits for the one before it.
  EXPECT_EQ(one.barriers, 3 * 9 + 2);
}

TEST(an_int8_cache_costs_a_token_one_dispatch_a_layer_more) {
  EXPECT_EQ(counts_of_a_token(KvType::kI8).dispatches, 3 * 10 + 3);
}

TEST(a_token_costs_the_host_no_allocation) {
  test::GpuRunner gpu(test::fixture("../../share/stories15M"), KvType::kF16, gpu_policy(7),
                      std::make_shared<test::PlainDevice>());
  const std::atomic<bool> abort{false};
  const Decoder::OnLogits ignore = [](int64_t, Matrix) {};
  const int32_t token = 1;
  const auto decode = [&] {
    gpu.decoder().forward({&token, 1}, LogitRows::kLast, abort, ignore);
    gpu.decoder().next({&token, 1}, abort);
  };
  decode();
  test::fail_allocation(1);
  decode();
  test::fail_allocation(0);
  EXPECT(!test::allocation_failed());
}

/// What a back end finds in a row of logits.
int32_t argmax(Backend& backend, std::vector<float> values) {
  Buffer<float> logits(std::ssize(values));
  std::ranges::copy(values, logits.data());
  backend.share(std::as_bytes(logits.span()));
  struct Unshare {
    Backend& backend;
    std::span<const std::byte> pages;
    ~Unshare() { backend.unshare(pages); }
  } const unshare{backend, std::as_bytes(logits.span())};
  int32_t index = -1;
  backend.argmax({logits.data(), 1, logits.size(), logits.size(), nullptr}, index);
  backend.finish();
  return index;
}

TEST(the_gpu_finds_the_processors_likeliest_token_ties_and_all) {
  fake_metal::reset();
  ThreadPool pool(1);
  const auto cpu = make_cpu_backend(pool);
  const auto gpu = make_gpu_backend(test::test_device(), gpu_policy(7));
  Rng rng(9);
  for (const int64_t count : {1, 32, 255, 257, 3000}) {
    // Few values, so that the largest comes often.
    std::vector<float> logits(static_cast<size_t>(count));
    for (float& logit : logits) logit = static_cast<float>(rng.next() % 5) - 6.0f;
    EXPECT_EQ(argmax(*gpu, logits), argmax(*cpu, logits));
    for (const float odd : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      logits[static_cast<size_t>(count / 2)] = odd;
      EXPECT_ERROR(ErrorCode::kNonFinite, "a logit is not a finite number", argmax(*cpu, logits));
      EXPECT_ERROR(ErrorCode::kNonFinite, "a logit is not a finite number", argmax(*gpu, logits));
    }
  }
  EXPECT_EQ(argmax(*gpu, {-1.0f, -0.0f, 0.0f}), 1);
}

// At temperature 0 the host reads one index; sampling reads the logits, which are in shared memory.
TEST(a_greedy_token_costs_one_dispatch_more_and_is_the_processors) {
  fake_metal::reset();
  const std::string model = test::fixture("models/tiny-llama");
  test::Runner cpu(model, KvType::kF32);
  test::GpuRunner gpu(model, KvType::kF32, gpu_policy(7));
  const std::atomic<bool> abort{false};
  const std::vector<int32_t> prompt = {1, 5, 9, 3};
  int32_t token = cpu.decoder.next(prompt, abort);
  EXPECT_EQ(gpu.decoder().next(prompt, abort), token);
  for (int i = 0; i < 6; ++i) {
    const int32_t expected = cpu.decoder.next({&token, 1}, abort);
    EXPECT_EQ(gpu.decoder().next({&token, 1}, abort), expected);
    token = expected;
  }
  const int64_t first = gpu.backend().counts().dispatches;
  gpu.decoder().next({&token, 1}, abort);
  const int64_t second = gpu.backend().counts().dispatches;
  gpu.forward({&token, 1});
  EXPECT_EQ(second - first, gpu.backend().counts().dispatches - second + 1);
}

TEST(a_long_cache_is_attended_to_in_parts) {
  fake_metal::reset();
  GpuPolicy policy = gpu_policy(7);
  policy.split_positions = 4;
  const std::string model = synthesized(R"("hidden_size": 64, "intermediate_size": 128,
                                  "num_hidden_layers": 1, "num_attention_heads": 2)");
  for (const KvType kv : {KvType::kF16, KvType::kI8}) expect_agreement(model, kv, policy, 7, 4);
}

// Whole models, more than one block of tokens, then a few more at a position that is none's begin.
TEST(prompts_by_matrices_and_in_blocks_agree_with_the_processor) {
  for (const PromptKernel prompt : {PromptKernel::kColumns, PromptKernel::kMatrix}) {
    GpuPolicy policy = gpu_policy(7);
    policy.prompt_kernel = prompt;
    fake_metal::reset();
    expect_agreement(test::fixture("models/tiny-llama"), KvType::kF32, policy, 11, 1);
    for (const KvType kv : {KvType::kF16, KvType::kI8}) {
      expect_agreement(synthesized(R"("hidden_size": 96, "intermediate_size": 172,
                           "num_hidden_layers": 2, "num_attention_heads": 3,
                           "num_key_value_heads": 1)"),
                       kv, policy, 35, 2);
    }
    EXPECT_EQ(fake_metal::counts().live_objects, 0);
  }
}

// Prefill in several command buffers: values that cross a cut must be in memory.
TEST(a_prefill_cut_into_command_buffers_gives_the_same_logits) {
  fake_metal::reset();
  GpuPolicy policy = gpu_policy(7);
  policy.buffer_work = 1;
  expect_agreement(synthesized(R"("hidden_size": 64, "intermediate_size": 128,
                                  "num_hidden_layers": 2, "num_attention_heads": 2)"),
                   KvType::kF16, policy);
}

TEST(a_pass_given_up_between_layers_leaves_no_trace) {
  fake_metal::reset();
  const std::string model = test::fixture("models/tiny-llama");
  test::Runner cpu(model, KvType::kF32);
  test::GpuRunner gpu(model, KvType::kF32, gpu_policy(7));
  const std::vector<int32_t> prompt = {1, 5, 9, 3};
  const std::atomic<bool> abort{true};
  EXPECT_ERROR(ErrorCode::kAborted, "",
               gpu.decoder().forward(prompt, LogitRows::kLast, abort, [](int64_t, Matrix) {}));
  EXPECT_EQ(fake_metal::counts().command_buffers, 0);
  const std::vector<float> a = cpu.forward(prompt);
  const std::vector<float> b = gpu.forward(prompt);
  EXPECT_NEAR(test::divergence(std::span(a).last(67), std::span(b).last(67)), 0, kDivergence);
}

#if !defined(__APPLE__)  // what only a device that takes orders can show

TEST(weights_longer_than_a_buffer_may_be_are_found_in_windows) {
  Settings settings;
  settings.max_buffer_bytes = 1 << 20;  // activations fit, the file of 5.8 MB does not
  fake_metal::reset(settings);
  const std::string model = synthesized(
      R"("hidden_size": 320, "intermediate_size": 640, "num_hidden_layers": 4,
         "num_attention_heads": 5)");
  expect_agreement(model, KvType::kF16, gpu_policy(7), 2, 1);
}

TEST(before_macos_15_all_works_without_residency_sets) {
  Settings settings;
  settings.before_macos_15 = true;
  fake_metal::reset(settings);
  expect_agreement(test::fixture("models/tiny-llama"), KvType::kF32, gpu_policy(7), 3, 1);
  EXPECT_EQ(fake_metal::counts().live_objects, 0);
}

// The planted fault: without barriers a concurrent encoder runs dependent dispatches at once.
TEST(the_fake_device_refuses_dependent_dispatches_with_no_barrier_between) {
  Settings settings;
  settings.ignore_barriers = true;
  fake_metal::reset(settings);
  test::GpuRunner gpu(test::fixture("models/tiny-llama"), KvType::kF32, gpu_policy(7));
  const int32_t token = 1;
  bool refused = false;
  try {
    gpu.forward({&token, 1});
  } catch (const fake_metal::Misuse& misuse) {
    refused = std::string(misuse.what()).find("no barrier between") != std::string::npos;
  }
  EXPECT(refused);
}

TEST(a_lost_device_is_an_error_by_name_and_the_next_pass_is_as_if_it_had_not_been) {
  const std::string model = test::fixture("models/tiny-llama");
  Settings settings;
  settings.lose_device_at = 1;
  fake_metal::reset(settings);
  test::Runner cpu(model, KvType::kF32);
  test::GpuRunner gpu(model, KvType::kF32, gpu_policy(7));
  const std::vector<int32_t> prompt = {1, 5, 9, 3};
  cpu.forward(prompt);
  gpu.forward(prompt);
  const int32_t next = 11;
  EXPECT_ERROR(ErrorCode::kDeviceLost, "Caused GPU Address Fault Error", gpu.forward({&next, 1}));
  EXPECT_NEAR(test::divergence(cpu.forward({&next, 1}), gpu.forward({&next, 1})), 0, kDivergence);
}

TEST(a_command_buffer_that_ran_out_of_memory_or_time_says_so) {
  for (const auto& [code, expected, text] :
       {std::tuple(8L, ErrorCode::kInsufficientMemory, "out of memory"),
        std::tuple(2L, ErrorCode::kDeviceLost, "too long")}) {
    Settings settings;
    settings.lose_device_at = 0;
    settings.error_code = code;
    fake_metal::reset(settings);
    test::GpuRunner gpu(test::fixture("models/tiny-llama"), KvType::kF32, gpu_policy(7));
    const int32_t token = 1;
    EXPECT_ERROR(expected, text, gpu.forward({&token, 1}));
  }
}

TEST(a_device_without_memory_for_scratch_is_an_error_and_nothing_leaks) {
  Settings settings;
  settings.most_memory = 300;  // the status word fits
  fake_metal::reset(settings);
  {
    test::GpuRunner gpu(test::fixture("models/tiny-llama"), KvType::kF32, gpu_policy(7));
    const int32_t token = 1;
    EXPECT_ERROR(ErrorCode::kInsufficientMemory, "no memory to give", gpu.forward({&token, 1}));
  }
  EXPECT_EQ(fake_metal::counts().live_objects, 0);
}

TEST(more_threads_than_a_pipeline_takes_are_refused_before_metal_drops_them) {
  Settings settings;
  settings.max_threads = 64;
  fake_metal::reset(settings);
  test::GpuRunner gpu(test::fixture("models/tiny-llama"), KvType::kF32, gpu_policy(7));
  const int32_t token = 1;
  EXPECT_ERROR(ErrorCode::kInternal, "max_threads", gpu.forward({&token, 1}));
}

#endif  // !defined(__APPLE__)

}  // namespace
}  // namespace subbit
