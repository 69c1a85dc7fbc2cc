// Which device a model gets, and what is said about it.
#include "runtime/devices.h"

#include <algorithm>
#include <future>
#include <thread>

#include "backend/metal/metal_device.h"
#include "engine.h"
#include "runtime/verdicts.h"
#include "support/fake_metal/fake_metal.h"
#include "support/files.h"
#include "support/gpu_runner.h"
#include "support/test.h"

// A Mac has the real Metal: its tests are those of backend/gpu.
#if !defined(__APPLE__)

namespace subbit {
namespace {

using fake_metal::Settings;

/// The fake Metal in place of the system's GPU, for the life of this object.
struct FakeGpu {
  explicit FakeGpu(const Settings& settings = {}) {
    fake_metal::reset(settings);
    set_gpu(open_metal_device);
  }
  ~FakeGpu() { set_gpu(nullptr); }
};

std::shared_ptr<LoadedModel> load(DeviceChoice device, const std::string& verdicts = "",
                                  const std::string& name = "tiny-llama",
                                  KvCacheType kv = KvCacheType::kF16) {
  LoadRequest request;
  request.kv_cache = kv;
  request.path = name.starts_with("/") ? name : test::fixture("models/" + name);
  request.threads = 1;
  request.device = device;
  request.verdicts = verdicts;
  JobControl control;
  return LoadedModel::load(request, control);
}

std::vector<int32_t> greedy(LoadedModel& model, int64_t count) {
  GenerateRequest request;
  request.prompt = {1, 5, 9};
  request.max_tokens = count;
  std::vector<int32_t> tokens;
  std::promise<void> done;
  model.generate(
      request, std::make_shared<JobControl>(), [&](int32_t token) { tokens.push_back(token); },
      [&](const GenerateResult&, const Error*) { done.set_value(); });
  done.get_future().wait();
  return tokens;
}

TEST(where_there_is_no_metal_auto_says_why_and_metal_is_refused) {
  const auto model = load(DeviceChoice::kAuto);
  EXPECT_EQ(model->facts().device.backend, "cpu");
  EXPECT(model->facts().device.reason.find("not a Mac") != std::string::npos);
  EXPECT_ERROR(ErrorCode::kDeviceUnavailable, "not a Mac", load(DeviceChoice::kMetal));
  EXPECT_EQ(load(DeviceChoice::kCpu)->facts().device.reason, "");
}

TEST(a_gpu_that_gives_the_processors_answers_is_taken_and_writes_the_same_text) {
  const FakeGpu gpu;
  {
    const auto model = load(DeviceChoice::kAuto);
    EXPECT_EQ(model->facts().device.backend, "metal");
    EXPECT_EQ(model->facts().device.name, "Fake M1");
    EXPECT_EQ(model->facts().device.reason, "");
    EXPECT(greedy(*model, 12) == greedy(*load(DeviceChoice::kCpu), 12));
  }
  EXPECT_EQ(fake_metal::counts().live_objects, 0);
}

TEST(a_model_with_an_int8_kv_cache_runs_on_the_gpu_after_a_trial_of_its_own) {
  const std::string verdicts = test::temporary_directory() + "/devices.txt";
  const FakeGpu gpu;
  load(DeviceChoice::kMetal, verdicts);
  const int64_t tried = fake_metal::counts().command_buffers;
  const auto model = load(DeviceChoice::kMetal, verdicts, "tiny-llama", KvCacheType::kI8);
  EXPECT(fake_metal::counts().command_buffers > tried);
  EXPECT_EQ(model->facts().device.backend, "metal");
  const auto cpu = load(DeviceChoice::kCpu, "", "tiny-llama", KvCacheType::kI8);
  EXPECT(greedy(*model, 12) == greedy(*cpu, 12));
}

TEST(a_verdict_is_remembered_for_the_chip_the_system_and_the_model) {
  const std::string verdicts = test::temporary_directory() + "/devices.txt";
  const FakeGpu gpu;
  load(DeviceChoice::kMetal, verdicts);
  const int64_t tried = fake_metal::counts().command_buffers;
  EXPECT(tried > 0);
  load(DeviceChoice::kMetal, verdicts);
  EXPECT_EQ(fake_metal::counts().command_buffers, tried);
  load(DeviceChoice::kMetal, verdicts, "tiny-llama3");
  EXPECT(fake_metal::counts().command_buffers > tried);
  EXPECT(test::read_file(verdicts).find("Fake M1|") == 0);
}

TEST(a_gpu_whose_answers_were_wrong_is_not_tried_again_and_the_processor_steps_in) {
  const std::string verdicts = test::temporary_directory() + "/devices.txt";
  const FakeGpu gpu;
  load(DeviceChoice::kMetal, verdicts);
  std::string text = test::read_file(verdicts);  // of the kernels, and of the model
  text = text.substr(0, text.rfind('\t')) + "\twrong: its answers diverge\n";
  test::write_file(verdicts, text);
  const auto model = load(DeviceChoice::kAuto, verdicts);
  EXPECT_EQ(model->facts().device.backend, "cpu");
  EXPECT(model->facts().device.reason.find("its answers diverge") != std::string::npos);
  EXPECT_ERROR(ErrorCode::kDeviceUnavailable, "did not pass its trial",
               load(DeviceChoice::kMetal, verdicts));
}

TEST(what_a_gpu_allocates_for_a_model_is_in_its_plan) {
  MemoryRequest request;
  request.threads = 1;
  request.device = DeviceChoice::kAuto;
  request.path = test::fixture("models/tiny-llama");
  EXPECT_EQ(estimate_memory(request).gpu, uint64_t{0});  // there is none
  const FakeGpu gpu;
  for (const char* name : {"models/tiny-llama", "models/tiny-llama3", "models/tiny-mistral",
                           "../../share/stories15M"}) {
    request.path = test::fixture(name);
    request.context_length = 16;
    request.device = DeviceChoice::kAuto;
    const MemoryEstimate planned = estimate_memory(request);
    test::GpuRunner runner(request.path, KvType::kF16, gpu_policy(7));
    const std::vector<int32_t> tokens = {1, 5, 9, 7};
    runner.forward(tokens);
    runner.forward(std::span(tokens).first(1));
    const GpuCounts counts = runner.backend().counts();
    EXPECT(counts.scratch_bytes + counts.copied_bytes > 0);
    EXPECT(counts.scratch_bytes + counts.copied_bytes + kAssumedDriverBytes <= planned.gpu);
    request.device = DeviceChoice::kCpu;
    EXPECT_EQ(estimate_memory(request).gpu, uint64_t{0});
  }
}

TEST(what_a_mac_can_lack_is_said_in_words) {
  Settings no_device;
  no_device.no_device = true;
  Settings old;
  old.family = 3;
  Settings compiler;
  compiler.compile_error = "program_source:12:5: error: unknown type name 'simdgroup_matrix'";
  for (const auto& [settings, words] :
       {std::pair(no_device, "no GPU to this process"), std::pair(old, "of GPU family 3"),
        std::pair(compiler, "unknown type name")}) {
    const FakeGpu gpu(settings);
    EXPECT_ERROR(ErrorCode::kDeviceUnavailable, words, load(DeviceChoice::kMetal));
    EXPECT(load(DeviceChoice::kAuto)->facts().device.reason.find(words) != std::string::npos);
    EXPECT_EQ(fake_metal::counts().live_objects, 0);
  }
}

TEST(a_gpu_with_one_wrong_kernel_is_found_out_and_not_used) {
  // One that every call runs, one for prompts, and one that changes no logit.
  for (const std::string kernel : {"rope", "prompt_attention_f16", "argmax"}) {
    const std::string verdicts = test::temporary_directory() + "/devices.txt";
    Settings settings;
    settings.broken_kernel = kernel;
    const FakeGpu gpu(settings);
    const auto model = load(DeviceChoice::kAuto, verdicts);
    EXPECT_EQ(model->facts().device.backend, "cpu");
    EXPECT(model->facts().device.reason.ends_with("than the processor: " + kernel));
    EXPECT(test::read_file(verdicts).find("|kernels\twrong: " + kernel + "\n") !=
           std::string::npos);
  }
}

// A kernel may be right in small jobs and wrong in the model's.
TEST(a_gpu_whose_kernels_seem_right_is_still_judged_by_its_answers) {
  for (const auto& [kernel, words] :
       {std::pair("rope", "differ from the processor"),
        std::pair("prompt_attention_f16", "differ from the processor"),
        std::pair("argmax", "the largest of its own logits")}) {
    const std::string verdicts = test::temporary_directory() + "/devices.txt";
    Settings settings;
    settings.broken_kernel = kernel;
    const FakeGpu gpu(settings);
    const std::string key = verdict_key(open_metal_device()->facts(), "kernels");
    test::write_file(verdicts, key + "\tright\n");
    const auto model = load(DeviceChoice::kAuto, verdicts);
    EXPECT(model->facts().device.reason.find(words) != std::string::npos);
    EXPECT(test::read_file(verdicts).find("\twrong: ") != std::string::npos);
  }
}

// Where two kernels serve one job, one that is wrong loses, and the model still runs on the GPU.
TEST(of_two_kernels_for_one_job_the_wrong_one_is_not_chosen) {
  SynthesizeRequest request;
  request.config = R"({"model_type": "llama", "vocab_size": 67, "max_position_embeddings": 64,
                       "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 64,
                       "intermediate_size": 128, "num_hidden_layers": 1,
                       "num_attention_heads": 2})";
  request.out = test::temporary_directory() + "/model";
  request.bits_per_weight = 3;
  JobControl control;
  synthesize(request, control);
  for (const auto& [kernel, words] :
       {std::pair("sign_gemm_sums", " columns\n"), std::pair("sign_gemv_rank", "\tselect ")}) {
    const std::string verdicts = test::temporary_directory() + "/devices.txt";
    Settings settings;
    settings.broken_kernel = kernel;
    const FakeGpu gpu(settings);
    EXPECT_EQ(load(DeviceChoice::kMetal, verdicts, request.out)->facts().device.backend, "metal");
    EXPECT(test::read_file(verdicts).find(words) != std::string::npos);
  }
}

TEST(a_gpu_lost_during_the_trial_leaves_the_processor) {
  Settings settings;
  settings.lose_device_at = 1;
  const FakeGpu gpu(settings);
  const auto model = load(DeviceChoice::kAuto);
  EXPECT_EQ(model->facts().device.backend, "cpu");
  EXPECT(model->facts().device.reason.find("gave up") != std::string::npos);
}

TEST(two_models_share_the_gpu_from_two_threads) {
  const FakeGpu gpu;
  {
    const auto first = load(DeviceChoice::kMetal);
    const auto second = load(DeviceChoice::kMetal, "", "tiny-mistral");
    const auto expected_first = greedy(*load(DeviceChoice::kCpu), 8);
    const auto expected_second = greedy(*load(DeviceChoice::kCpu, "", "tiny-mistral"), 8);
    auto other = std::async(std::launch::async, [&] { return greedy(*second, 8); });
    EXPECT(greedy(*first, 8) == expected_first);
    EXPECT(other.get() == expected_second);
  }
  EXPECT_EQ(fake_metal::counts().live_objects, 0);
}

TEST(doctor_names_every_kernel_of_the_gpu_or_says_why_there_is_none) {
  EXPECT(!doctor().has_gpu || doctor().gpu_reason.empty());
  const FakeGpu gpu;
  const DoctorReport report = doctor();
  const auto& prompt_kernels = report.prompt_kernels;
  EXPECT(std::count(prompt_kernels.begin(), prompt_kernels.end(), report.prompt_kernel) == 1);
  EXPECT(report.has_gpu);
  EXPECT_EQ(report.gpu_name, "Fake M1");
  EXPECT_EQ(report.gpu_family, 7);
  EXPECT(report.kernels.size() > 20);
  EXPECT(report.gpu_bytes_per_second > 0);
  EXPECT_EQ(report.gpu_reason, "");
  for (const KernelReport& kernel : report.kernels) {
    const bool planted = kernel.name.starts_with("deleted_barrier_") ||
                         kernel.name.starts_with("wrong_pad_") ||
                         kernel.name.starts_with("planted_");
    if (planted) continue;
    const bool run_by_models = kernel.name != "read_bandwidth";
    EXPECT(kernel.verdict == (run_by_models ? KernelVerdict::kRight : KernelVerdict::kUnjudged));
    const bool timed = kernel.tokens > 0 && kernel.seconds > 0 && kernel.bytes_per_second > 0;
    if (timed != run_by_models) test::fail(__FILE__, __LINE__, "the time of " + kernel.name);
  }
}

TEST(doctor_names_the_one_kernel_that_is_wrong) {
  Settings settings;
  settings.broken_kernel = "kv_append_i8";
  const FakeGpu gpu(settings);
  for (const KernelReport& kernel : doctor().kernels) {
    EXPECT_EQ(kernel.verdict == KernelVerdict::kWrong, kernel.name == settings.broken_kernel);
    if (kernel.verdict == KernelVerdict::kWrong) {
      EXPECT(kernel.reason.find("over a cache of int8: differs") != std::string::npos);
    }
  }
}

TEST(a_gpu_lost_while_the_doctor_times_it_is_in_the_report) {
  Settings settings;
  settings.lose_device_at = 3;
  const FakeGpu gpu(settings);
  const DoctorReport report = doctor();
  EXPECT(report.has_gpu && report.gpu_reason.find("gave up") != std::string::npos);
}

}  // namespace
}  // namespace subbit

#endif  // !defined(__APPLE__)
