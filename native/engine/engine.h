// The engine's whole public face: the only header the binding includes. Plain structs in, plain
// structs out, callbacks from the engine's own threads. It has never heard of Node.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace subbit {

/// "0.1.0": the layout and the API version of this build.
std::string_view engine_version();

// ---- jobs ---------------------------------------------------------------------------------------

/// Progress of long work. `phase` is a word ("map", "calibrate", "fit", "tune", ...); total 0 =
/// unknown.
struct Progress {
  std::string phase;
  double loaded = 0;
  double total = 0;
  std::string detail;  // a tensor or file name, or empty
};

/// Handed to long work by whoever started it. `abort` may be set from any thread at any time; the
/// work then ends with kAborted. `on_progress` is called on the working thread.
struct JobControl {
  std::atomic<bool> abort{false};
  std::function<void(const Progress&)> on_progress;
};

enum class KvCacheType { kF16, kF32, kI8 };

// ---- memory -------------------------------------------------------------------------------------

/// Bytes; 0 stands for "there is none" or "the system does not say".
struct SystemMemory {
  uint64_t physical = 0;
  uint64_t available = 0;          // could be had now without swapping
  uint64_t group_limit = 0;        // of the tightest control group (Linux)
  uint64_t group_left = 0;         // of it, page cache counted as left
  uint64_t working_set_limit = 0;  // what the GPU may hold (macOS, with the Metal back end)
  uint64_t wired_limit = 0;        // iogpu.wired_limit_mb, where a user has set it (macOS)
  uint64_t swap_used = 0;
  std::string pressure = "normal";  // "warning", "critical"
};

/// Asks the system anew.
SystemMemory system_memory();

/// What this process holds.
struct ProcessMemory {
  uint64_t resident = 0;
  uint64_t file = 0;       // of it, pages of mapped files: clean, the system may take them back
  uint64_t anonymous = 0;  // of it, private
  uint64_t peak = 0;       // the most that was ever resident
  uint64_t footprint = 0;  // phys_footprint on macOS, elsewhere the same as anonymous
};

ProcessMemory process_memory();

/// How much a process may hold, and who says so: "budget", "available", "physical", "cgroup",
/// "recommendedMaxWorkingSetSize".
struct MemoryLimit {
  uint64_t bytes = 0;
  std::string source;
};

/// kAuto takes the GPU where there is one that has proved itself, and says why where it did not.
enum class DeviceChoice { kAuto, kMetal, kCpu };

/// What to plan for: a model on disk, or a shape.
struct MemoryRequest {
  std::string path;            // as in LoadRequest; empty: the config below
  std::string config;          // the text of a config.json
  double bits_per_weight = 0;  // of the imagined body
  int threads = 0;             // 0: the machine's performance cores
  int64_t context_length = 0;  // 0: what the model was trained with
  KvCacheType kv_cache = KvCacheType::kF16;
  uint64_t budget = 0;           // 0: what the system allows
  uint64_t process_bytes = 0;    // held by the process already; 0: measure it
  uint64_t tokenizer_bytes = 0;  // what text work will add
  DeviceChoice device = DeviceChoice::kCpu;
};

/// Every byte the process will hold with the context full and every weight touched.
struct MemoryEstimate {
  // File-backed.
  uint64_t weights_body = 0;
  uint64_t codebooks = 0;
  uint64_t embeddings = 0;
  uint64_t lm_head = 0;
  uint64_t file_rest = 0;
  // Private.
  uint64_t kv_cache = 0;
  uint64_t activations = 0;
  uint64_t scratch = 0;
  uint64_t rope = 0;
  uint64_t loaded = 0;
  uint64_t sampling = 0;
  uint64_t threads = 0;
  uint64_t tokenizer = 0;
  uint64_t gpu = 0;      // a GPU's scratch and copies, where one may be used
  uint64_t runtime = 0;  // of the process before, and of running in it

  uint64_t total = 0;
  uint64_t mapped = 0;
  uint64_t private_bytes = 0;
  uint64_t peak_load = 0;
  uint64_t peak_prefill = 0;

  std::string architecture;
  int64_t parameters = 0;
  double bits_per_weight_body = 0;
  int64_t context_length = 0;
  int64_t trained_context_length = 0;
  KvCacheType kv_cache_type = KvCacheType::kF16;
  MemoryLimit limit;
  int64_t max_context_length = 0;  // that fits the limit, at most the trained one; 0: none does
  bool fits() const { return total <= limit.bytes; }
};

/// Reads headers only: the data of tensors is not even mapped. Blocks. Throws Error.
MemoryEstimate estimate_memory(const MemoryRequest& request);

/// What a loaded model holds of what was planned for it.
struct MemoryReport {
  MemoryEstimate planned;
  ProcessMemory process;
  uint64_t kv_cache_used = 0;   // keys and values of the tokens held
  uint64_t arena_planned = 0;   // activations and scratch
  uint64_t arena_extent = 0;    // of it, ever touched
  uint64_t arena_overflow = 0;  // what the plan did not foresee: 0
};

// ---- load ---------------------------------------------------------------------------------------

/// What loading does when the plan is over the limit.
enum class OverLimit { kThrow, kShrinkContext, kIgnore };

/// What a model runs on.
struct DeviceFacts {
  std::string backend = "cpu";  // or "metal"
  std::string name;             // the chip's own, or empty
  std::string reason;           // why it is not the GPU although that was welcome; else empty
  std::string kernels;          // of the GPU: those that its trial found right and fastest
};

struct LoadRequest {
  std::string path;            // a directory, or a llama2.c checkpoint
  int threads = 0;             // 0: the machine's performance cores
  int64_t context_length = 0;  // 0: what the model was trained with
  KvCacheType kv_cache = KvCacheType::kF16;
  bool unpack_to_float = false;  // the reference path: packed weights expanded to float32
  uint64_t memory_budget = 0;    // 0: what the system allows
  OverLimit over_limit = OverLimit::kThrow;
  uint64_t tokenizer_bytes = 0;  // what text work will add, for the plan
  DeviceChoice device = DeviceChoice::kAuto;
  /// A file that remembers which devices have proved themselves; or empty.
  std::string verdicts = {};
  /// What multiplies prompts on the processor, one of DoctorReport::prompt_kernels: for the whole
  /// process, until another model is loaded. Empty: the fastest, measured. All give the same bits.
  std::string prompt_kernel = {};
};

struct ModelFacts {
  std::string architecture;  // "llama"
  int64_t parameters = 0;    // tied ones counted once
  int64_t context_length = 0;
  int64_t trained_context_length = 0;
  int64_t vocab_size = 0;
  int64_t layers = 0;
  int64_t hidden_size = 0;
  double bits_per_weight_body = 0;
  double bits_per_weight_file = 0;
  uint64_t file_bytes = 0;
  std::vector<int32_t> bos_token_ids;
  std::vector<int32_t> eos_token_ids;
  int threads = 0;
  DeviceFacts device;
  double load_ms = 0;
  /// What decoding one token reads: every weight but the embeddings of other tokens, and the keys
  /// and values of each position before it.
  uint64_t weight_bytes_per_token = 0;
  double kv_bytes_per_position = 0;
};

// ---- generate -----------------------------------------------------------------------------------

struct GenerateRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 0;
  std::vector<int32_t> stop_tokens;
  float temperature = 0;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
};

enum class FinishReason { kStop, kLength, kContext };

struct GenerateResult {
  FinishReason finish_reason = FinishReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, found in the KV cache
  int64_t generated_tokens = 0;
  double prefill_ms = 0;
  double decode_ms = 0;
  // Processor time that the whole process took meanwhile.
  double prefill_cpu_ms = 0;
  double decode_cpu_ms = 0;
};

// ---- score --------------------------------------------------------------------------------------

struct ScoreResult {
  /// log p(tokens[i + 1] | tokens[0..i]), natural; one fewer than tokens.
  std::vector<float> logprobs;
};

/// A model in memory with an engine thread of its own. All calls may come from any thread; work is
/// done in order on the engine thread. Callbacks run there.
class LoadedModel {
 public:
  /// Blocks until loaded; call from a thread that may block. Throws Error.
  static std::shared_ptr<LoadedModel> load(const LoadRequest& request, JobControl& control);
  virtual ~LoadedModel() = default;

  virtual const ModelFacts& facts() const = 0;

  /// Queues a generation. `on_token` gets each id as it is chosen (the stop token itself is not
  /// given); then `on_done` gets the result, or an error (the result then says how far it came).
  /// Both on the engine thread. `control` is kept until on_done has returned.
  virtual void generate(GenerateRequest request, std::shared_ptr<JobControl> control,
                        std::function<void(int32_t)> on_token,
                        std::function<void(const GenerateResult&, const Error*)> on_done) = 0;

  /// Queues the scoring of one sequence from an empty context.
  virtual void score(std::vector<int32_t> tokens, std::shared_ptr<JobControl> control,
                     std::function<void(const ScoreResult&, const Error*)> on_done) = 0;

  /// Queues the filling of the whole KV cache with made-up values; the first `tokens` positions are
  /// then those of as many tokens 0, which a prompt may begin with; and the touching of all
  /// weights. A run at a depth has then the memory and the speed it would have, without the prefill
  /// up to there.
  virtual void fill_context(int64_t tokens, std::shared_ptr<JobControl> control,
                            std::function<void(const Error*)> on_done) = 0;

  /// From any thread, at any time before dispose() returns.
  virtual MemoryReport memory() const = 0;

  /// Queues giving back what no token in the context needs: free scratch and the unused end of the
  /// KV cache; all of the context where `forget` says so. `on_done` gets the bytes given back.
  enum class Trim { kKeepContext, kForgetContext };
  virtual void trim(Trim what, std::shared_ptr<JobControl> control,
                    std::function<void(uint64_t, const Error*)> on_done) = 0;

  /// Aborts what runs, refuses what is queued with kDisposed, joins the thread, frees the model.
  /// Idempotent; blocks.
  virtual void dispose() = 0;
};

/// Bytes a second that `threads` threads (0: as a model gets) read from memory, the best of a few
/// passes. Blocks for some tenths of a second. Throws Error.
double measure_read_bandwidth(int threads, JobControl& control);

/// The most memory this process ever had resident, mapped files included.
uint64_t peak_memory_bytes();

// ---- evaluate -----------------------------------------------------------------------------------

/// Scores windows of tokens under a model and, where a teacher is named, against it.
struct EvaluateRequest {
  std::string path;
  std::string teacher_path;  // empty: none
  std::vector<std::vector<int32_t>>
      windows;  // each begins with BOS; every later token is predicted
  int threads = 0;
  bool unpack_to_float = false;
};

struct EvaluateResult {
  int64_t tokens = 0;  // predictions
  double perplexity = 0;
  bool has_teacher = false;
  double teacher_perplexity = 0;
  double kl_mean = 0;  // KL(teacher || model), nats, mean over predictions
  double kl_p99 = 0;
  double top1_agreement = 0;
};

/// Blocks. Throws Error.
EvaluateResult evaluate(const EvaluateRequest& request, JobControl& control);

// ---- doctor -------------------------------------------------------------------------------------

enum class KernelVerdict {
  kRight,     // it computes what the processor computes
  kWrong,     // it does not
  kUnusable,  // the system's compiler refuses it
  kUnjudged,  // no model runs it, or what it needs is wrong
};

/// One GPU kernel, tried.
struct KernelReport {
  std::string name;
  KernelVerdict verdict = KernelVerdict::kUnjudged;
  std::string reason;  // it is not right: the compiler's words, or where it differs and by how much
  int64_t max_threads = 0;  // of a threadgroup; 0: unusable
  /// One dispatch's time, for so many tokens. 0: not timed.
  int64_t tokens = 0;
  double seconds = 0;
  double bytes_per_second = 0;  // of weights, of keys and values, or else of rows
};

/// What this machine offers, and what is wrong with it.
struct DoctorReport {
  std::string version;                      // the engine's
  std::string sign_kernel;                  // the CPU's, such as "avx2"
  std::string prompt_kernel;                // of several tokens: the fastest of the next, measured
  std::vector<std::string> prompt_kernels;  // that this machine can run
  int performance_cores = 0;
  bool has_gpu = false;
  std::string gpu_reason;  // why there is none, or what went wrong with it
  std::string gpu_name;
  std::string gpu_system;
  int gpu_family = 0;
  uint64_t gpu_max_buffer_bytes = 0;
  uint64_t gpu_working_set_bytes = 0;
  uint64_t gpu_threadgroup_bytes = 0;
  double gpu_bytes_per_second = 0;  // that it reads, measured
  int64_t timed_rows = 0;           // and columns, of the matrices that kernels were timed on
  std::vector<KernelReport> kernels;
};

/// Opens the GPU, compiles every kernel, compares each with the processor and times it. Blocks, on
/// a Mac for some seconds. What fails is in the report.
DoctorReport doctor();

// ---- inspect ------------------------------------------------------------------------------------

struct InspectedTensor {
  std::string name;
  std::string format;          // "packed: factored r=160", "int4", "F16", ...
  std::vector<int64_t> shape;  // of the weights it stands for
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  bool body = false;  // counts towards body bits
};

struct Inspection {
  std::string architecture;
  int64_t parameters = 0;
  uint64_t bytes = 0;  // of all weight files
  double bits_per_weight_body = 0;
  double bits_per_weight_file = 0;
  std::vector<InspectedTensor> tensors;
};

/// Reads headers only, apart from the heads of packed tensors. Blocks. Throws Error.
Inspection inspect(const std::string& path);

struct UnpackedTensor {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;  // row-major
};

/// The weights of one tensor as the engine understands them. Blocks. Throws Error.
UnpackedTensor unpack_tensor(const std::string& path, const std::string& name);

// ---- compress -----------------------------------------------------------------------------------

enum class Effort { kFast, kBalanced, kMax };

/// One training within a compression. Where a number is negative the effort decides.
struct StageTraining {
  int64_t updates = -1;   // 0 leaves the stage out
  int64_t tokens = -1;    // of an update, at least: whole windows
  float rate = -1;        // of signs' latents, or of float weights relative to their size
  float scale_rate = -1;  // of scales and norms, relative to their size
  float end_rate = -1;    // of embedding and head, in steps between codes; 0: they stand
};

/// As many windows of text tell what an error in a linear costs well enough.
constexpr int64_t kSensitivityWindows = 8;

/// What a compression does, stage by stage, for who wants to know what each is worth.
struct CompressStages {
  enum class Rates { kAllocated, kUniform };
  /// What linears may be made of: two sign matrices; codes from learned tables; signs and words of
  /// signs; or whichever of these a linear is thought to do best in.
  enum class Forms { kFactored, kTables, kCodes, kMixed };

  Rates rates = Rates::kAllocated;
  Forms forms = Forms::kFactored;
  int64_t gradient_windows = -1;  // of text, for the importance of outputs; 0: all count alike
  /// Of text, to measure what an error in each linear costs; 0: as much per weight in every one.
  int64_t sensitivity_windows = 0;
  int64_t teacher_tokens = -1;  // of the teacher's own making, to tune the whole model on
  StageTraining absorb;         // before each fit, the block's linears that are still floats
  StageTraining refine;         // after each fit, that linear alone
  StageTraining block;          // then all linears of the block together
  StageTraining model;          // at last the whole model, against the teacher's logits
};

/// What the result may weigh. The weight file counts whole: header, blocks, embeddings and head;
/// the tokenizer and the config beside it do not.
struct CompressTarget {
  enum class Unit {
    kBodyBits,     // bits per weight of the decoder blocks
    kFileBits,     // bits of the weight file over all parameters
    kFileBytes,    // of the weight file
    kMemoryBytes,  // of running it at `context_length`: the weight file and all beside it
  };
  Unit unit = Unit::kBodyBits;
  double amount = 0.8;
  int64_t context_length = 0;  // of kMemoryBytes; 0: what the model was trained with
};

/// What is asked of single linears of the body. `pattern` is a name, of the stacked linear or of a
/// checkpoint matrix in it, in which * stands for any run of characters and ? for one. Of several
/// rules that match, the last holds.
struct KeepRule {
  enum class Rule {
    kAsStored,  // the checkpoint's own bytes
    kBits,      // 8, 4, 3 or 2: that many bits and a scale a group; less than 2: compressed to that
    kAtLeast,   // compressed at no less than `bits` a weight
  };
  std::string pattern;
  Rule rule = Rule::kAsStored;
  double bits = 0;
};

/// Bits of a code in the embedding and the head: 2, 3, 4 or 8, and scales; 16: as stored. A head
/// of 0 is as the embedding, and a tied one has no choice.
struct EndBits {
  int embedding = 4;
  int head = 0;
};

struct CompressRequest {
  std::string source;
  std::string out;  // a directory; its weight file and config.json are written, last of all
  CompressTarget target;
  std::vector<KeepRule> keep;
  EndBits ends;
  std::vector<std::vector<int32_t>> calibration;  // windows of tokens, each begins with BOS
  Effort effort = Effort::kBalanced;
  uint64_t seed = 0;
  int threads = 0;
  std::string state;  // a directory for finished blocks; empty: `out` + ".state"
  bool tune = true;   // false: blocks stay as they were fitted, to see what tuning is worth
  CompressStages stages;
  uint64_t memory_budget = 0;  // 0: what the system allows
  OverLimit over_limit = OverLimit::kThrow;
  uint64_t tokenizer_bytes = 0;  // what text work holds meanwhile
};

struct CompressedLinear {
  std::string name;
  std::string format;  // "factored r=160"
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  double weight_error = 0;  // ||W - What||^2 / ||W||^2
  double output_error = 0;  // the same, weighted by the inputs' second moments
};

/// A tensor of the compressed model before there is one, or several of a kind.
struct PlannedTensor {
  enum class Part { kBody, kEmbedding, kHead, kNorms, kHeader };
  std::string name;
  std::string format;  // "factored r=160", "int4", "as stored"
  Part part = Part::kBody;
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  /// Relative squared error of its outputs that a fit alone is expected to leave; 0 as stored.
  double predicted_error = 0;
};

/// How long a phase takes; named as progress names it.
struct StageTime {
  std::string name;
  double ms = 0;
};

struct StageBytes {
  std::string name;
  uint64_t bytes = 0;
};

/// What a compression will hold, planned from headers and sizes alone: some parts all the time, and
/// of the stages one after another.
struct CompressMemory {
  uint64_t original = 0;  // mapped: the model it starts from
  uint64_t result = 0;    // mapped: finished blocks, and what is written of them
  uint64_t process = 0;   // what the process held before, and what running adds
  uint64_t threads = 0;
  uint64_t tokenizer = 0;
  uint64_t ends = 0;  // embeddings and head as they will be written
  uint64_t text = 0;  // tokens
  std::vector<StageBytes> stages;

  uint64_t private_bytes() const {
    uint64_t most = 0;
    for (const StageBytes& stage : stages) most = stage.bytes > most ? stage.bytes : most;
    return process + threads + tokenizer + ends + text + most;
  }
  /// What the process will measure as its peak resident size, if no page is taken back.
  uint64_t peak() const { return original + result + private_bytes(); }
};

/// What an effort would cost on this machine: time from operation counts and the speeds that were
/// measured for it.
struct PredictedCost {
  Effort effort = Effort::kBalanced;
  std::vector<StageTime> stages;
  double ms = 0;
  CompressMemory memory;
};

/// Everything that is settled before the work begins.
struct CompressPlan {
  std::vector<PlannedTensor> tensors;  // every byte of the weight file
  double bits_per_weight_body = 0;
  double bits_per_weight_file = 0;
  uint64_t bytes = 0;
  uint64_t body_bytes = 0;
  uint64_t memory_bytes = 0;         // of running it at context_length: the file and all beside it
  int64_t context_length = 0;        // the target's, or what the model was trained with
  std::vector<PredictedCost> costs;  // of each effort; only from plan_compress()
  double gemm_gflops = 0;            // measured; likewise
};

/// Calibration text of an effort, to predict what it costs.
struct CalibrationSize {
  int64_t windows = 0;
  int64_t tokens = 0;
};

struct CompressPlanRequest {
  CompressRequest compress;  // without calibration or a place to write
  CalibrationSize fast;
  CalibrationSize balanced;
  CalibrationSize max;
};

/// What compress() would do, without doing it; a moment's measuring aside. Blocks. Throws Error.
CompressPlan plan_compress(const CompressPlanRequest& request, JobControl& control);

struct CompressResult {
  CompressPlan plan;
  double bits_per_weight_body = 0;
  double bits_per_weight_file = 0;
  uint64_t bytes = 0;
  std::vector<CompressedLinear> linears;
  double wall_ms = 0;
  std::vector<StageTime> stages;  // in order of their beginning; they add up to wall_ms
  int64_t resumed_blocks = 0;
  /// The last so many windows of the calibration were trained on by nobody.
  int64_t held_out_windows = 0;
  bool tuned = false;  // not asked for, or the model is too large to be tuned as a whole
};

/// Blocks. Throws Error; on any error nothing under `out` has changed, and `state` resumes.
CompressResult compress(const CompressRequest& request, JobControl& control);

// ---- synthesize ---------------------------------------------------------------------------------

/// A model of a true shape with random codes: the speed and the memory of a compressed model do not
/// depend on what its codes say.
struct SynthesizeRequest {
  std::string config;            // the text of a config.json
  std::string out;               // a directory
  double bits_per_weight = 0.8;  // of the body; it gets at most these
  uint64_t seed = 0;
};

struct SynthesizeResult {
  int64_t parameters = 0;
  double bits_per_weight_body = 0;
  double bits_per_weight_file = 0;
  uint64_t bytes = 0;
};

/// Writes weight file and config.json; no tokenizer. Blocks. Throws Error.
SynthesizeResult synthesize(const SynthesizeRequest& request, JobControl& control);

}  // namespace subbit
