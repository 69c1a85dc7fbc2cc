// compress(): the route of a model from its checkpoint to its packed form, one decoder block at a
// time. Each step is a file beside this one; here is only their order.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "backend/cpu/cpu_backend.h"
#include "base/check.h"
#include "base/process.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "compress/block_stages.h"
#include "compress/block_store.h"
#include "compress/calibrate.h"
#include "compress/compression_memory.h"
#include "compress/cost.h"
#include "compress/effort.h"
#include "compress/fingerprint.h"
#include "compress/learn_tables.h"
#include "compress/plan.h"
#include "compress/plan_compress.h"
#include "compress/stage_clock.h"
#include "compress/tune/tune.h"
#include "compress/tuned_store.h"
#include "compress/write.h"
#include "engine.h"
#include "formats/registry.h"
#include "io/checkpoint.h"
#include "memory/system_memory.h"
#include "models/model.h"

namespace subbit {
namespace {

/// The squared gradients behind a block, damped, their mean one.
std::vector<float> channel_weights(const std::vector<float>& gradients) {
  double sum = 0.0;
  for (const float g : gradients) sum += g;
  const double mean = sum / static_cast<double>(gradients.size());
  std::vector<float> weights(gradients.size(), 1.0f);
  if (!(mean > 0.0) || !std::isfinite(mean)) return weights;
  for (size_t c = 0; c < weights.size(); ++c)
    weights[c] = static_cast<float>(0.8 * gradients[c] / mean + 0.2);
  return weights;
}

CalibrationSize size_of(const std::vector<std::vector<int32_t>>& windows) {
  CalibrationSize size;
  size.windows = std::ssize(windows);
  for (const std::vector<int32_t>& window : windows) size.tokens += std::ssize(window);
  return size;
}

class Compression {
 public:
  Compression(const CompressRequest& request, JobControl& control);
  CompressResult run();

 private:
  CompressResult run_all();
  PredictedCost predict() const;
  void measure_sensitivities_once();
  void report_plan() const;
  void find_stored_blocks();
  void compress_missing_blocks();
  void measure_gradients_once();
  void learn_tables_once();
  int64_t fit_steps_of(const BlockPlan& plan) const;
  FinishedBlock compress_one(size_t index, CalibrationStream& stream);
  void tune_blocks();
  bool take_tuned(const TunedStore& store);
  bool can_tune() const;
  std::unique_ptr<Model> load_student() const;
  void put_in_place(const StoredBlock& block, const BlockPlan& plan);
  void report_fit(const std::string& linear);
  void report_update(size_t block, const std::string& stage, double error);

  const CompressRequest& request_;
  JobControl& control_;
  CompressWork work_;
  uint64_t process_bytes_ = process_memory().resident;  // before anything is opened
  Checkpoint checkpoint_;
  const Architecture& architecture_;
  Manifest manifest_;
  std::vector<StoredBlock> blocks_;  // outlive the model, which views their bytes
  std::vector<Table> tables_;        // what the model's linears share; its views too
  std::optional<TableTensors> table_tensors_;
  std::unique_ptr<Model> model_;
  CompressionRequest plan_request_;
  CompressionPlan plan_;
  std::vector<FinishedTensor> ends_;
  BlockStore store_;
  ThreadPool pool_;
  MachineSpeeds speeds_;
  PredictedCost predicted_;
  int64_t resumed_ = 0;
  bool tuned_ = false;
  int64_t fit_steps_ = 0;
  int64_t fit_steps_total_ = 0;
  GradientMoments gradients_;
  int64_t updates_ = 0;
  int64_t updates_total_ = 0;
};

void check_request(const CompressRequest& request) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (request.out.empty())
    throw Error(ErrorCode::kInvalidOption, "no directory to write to", {{"option", "out"}});
  if (fs::equivalent(request.source, request.out, ignored)) {
    throw Error(ErrorCode::kInvalidOption, "a model cannot be compressed onto itself",
                {{"option", "out"}, {"actual", request.out}});
  }
}

std::string state_directory(const CompressRequest& request) {
  if (!request.state.empty()) return request.state;
  std::string out = request.out;
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  return out + ".state";
}

Checkpoint open_source(const CompressRequest& request) {
  check_request(request);
  return open_uncompressed(request.source);
}

Compression::Compression(const CompressRequest& request, JobControl& control)
    : request_(request),
      control_(control),
      checkpoint_(open_source(request)),
      architecture_(find_architecture(checkpoint_.config(), checkpoint_.path())),
      manifest_(architecture_.manifest(checkpoint_.config(), checkpoint_.path())),
      model_(architecture_.load(checkpoint_, WeightMode::kAsStored)),
      plan_request_({&manifest_,
                     model_.get(),
                     &checkpoint_,
                     request.target,
                     request.keep,
                     request.ends,
                     request.stages,
                     {}}),
      plan_(plan_compression(plan_request_)),
      store_(state_directory(request), fingerprint(request, checkpoint_)),
      pool_(request.threads > 0 ? request.threads : ThreadPool::default_threads()) {
  work_ = work_of(request, manifest_, plan_);
}

int64_t Compression::fit_steps_of(const BlockPlan& plan) const {
  int64_t steps = 0;
  for (const LinearPlan& linear : plan.linears)
    steps += is_coded(linear.size) ? kCodedRounds : work_.fit_iterations;
  return steps;
}

/// Before the first block: they are learned from the original's weights.
void Compression::learn_tables_once() {
  if (plan_.table_widths.empty() || !tables_.empty()) return;
  const std::unique_ptr<Backend> backend = make_cpu_backend(pool_);
  const Weight& embedding = *model_->find_linear(manifest_.embedding)->parts[0].weight;
  tables_ = learn_tables({&plan_, model_.get(), &embedding, request_.calibration, request_.seed},
                         *backend, pool_, control_);
  table_tensors_.emplace(tables_);
}

void Compression::find_stored_blocks() {
  for (size_t i = 0; i < plan_.blocks.size(); ++i) {
    blocks_.push_back(
        store_.load(static_cast<int64_t>(i), tensors_of(plan_.blocks[i], checkpoint_)));
    if (blocks_.back().file != nullptr) {
      ++resumed_;
    } else {
      updates_total_ += work_.blocks.updates(std::ssize(plan_.blocks[i].linears));
      fit_steps_total_ += fit_steps_of(plan_.blocks[i]);
    }
  }
}

void Compression::report_fit(const std::string& linear) {
  if (control_.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
  constexpr int64_t kStepsPerEvent = 10;
  if (control_.on_progress && fit_steps_ % kStepsPerEvent == 0) {
    control_.on_progress(
        {"fit", static_cast<double>(fit_steps_), static_cast<double>(fit_steps_total_), linear});
  }
  ++fit_steps_;
}

void Compression::report_update(size_t block, const std::string& stage, double error) {
  if (control_.abort.load()) throw Error(ErrorCode::kAborted, "compression was aborted");
  if (control_.on_progress) {
    char detail[64];
    std::snprintf(detail, sizeof detail, "block %zu/%zu, error %.4f: ", block + 1, blocks_.size(),
                  error);
    control_.on_progress({"tune blocks", static_cast<double>(updates_),
                          static_cast<double>(updates_total_), detail + stage});
  }
  ++updates_;
}

/// Importances of outputs: for the fits, and for the channels of the residual stream.
void Compression::measure_gradients_once() {
  if (work_.gradient_windows == 0) return;
  gradients_ = measure_gradients(
      {&manifest_, model_.get(), request_.calibration, work_.gradient_windows}, pool_, control_);
}

FinishedBlock Compression::compress_one(size_t index, CalibrationStream& stream) {
  Rng seeds(request_.seed);
  BlockRequest request;
  request.plan = &plan_.blocks[index];
  request.index = static_cast<int64_t>(index);
  request.model = model_.get();
  request.checkpoint = &checkpoint_;
  request.gradients = &gradients_;
  request.schedule = work_.blocks;
  request.iterations = work_.fit_iterations;
  for (size_t i = 0; i <= index; ++i) request.seed = seeds.next();
  std::set<std::string> coded;
  for (const LinearPlan& linear : request.plan->linears)
    if (is_coded(linear.size)) coded.insert(linear.spec->name);
  const InputObservations inputs = stream.observe(request.index, coded, control_);
  request.moments = &inputs.moments;
  request.covariances = &inputs.covariances;
  request.tables = tables_;
  if (work_.blocks.trains()) {
    stream.advance_teacher(request.index, control_);
    request.data = {&stream.compressed(), &stream.teacher(), {}};
    const auto gradients = gradients_.find(manifest_.blocks[index].linears.back().name);
    request.data.weights = gradients != gradients_.end()
                               ? channel_weights(gradients->second)
                               : inverse_variances(stream.teacher(), pool_);
  }
  BlockEvents events;
  events.fit = [this](const std::string& name) { report_fit(name); };
  events.update = [&](const std::string& stage, double error) {
    report_update(index, stage, error);
  };
  return compress_block(request, pool_, events);
}

/// The model then runs the block as its users will.
void Compression::put_in_place(const StoredBlock& block, const BlockPlan& plan) {
  for (const LinearPlan& planned : plan.linears) {
    const TensorView* tensor = block.file->find(planned.spec->name + ".packed");
    CHECK(tensor != nullptr);
    Linear linear;
    linear.name = planned.spec->name;
    linear.shape = planned.spec->shape;
    const SharedTables tables =
        table_tensors_.has_value() ? table_tensors_->shared() : SharedTables();
    linear.parts.push_back({find_format("packed")->view(*tensor, linear.shape, tables), {}});
    model_->replace_linear(planned.spec->name, std::move(linear));
  }
  for (const KeptLinear& kept : plan.kept)
    model_->replace_linear(kept.spec->name, linear_of(kept, *block.file));
  for (const NormPlan& norm : plan.norms) {
    const TensorView* tensor = block.file->find(norm.name);
    CHECK(tensor != nullptr);
    const Shape shape{1, tensor->count()};
    TensorView row = *tensor;
    row.shape = {1, tensor->count()};
    std::vector<float> values(static_cast<size_t>(shape.cols));
    find_format("dense")->view(row, shape)->unpack_rows(0, {values.data(), 1, shape.cols});
    model_->replace_norm(norm.name, std::move(values));
  }
}

void Compression::compress_missing_blocks() {
  const auto missing = [](const StoredBlock& block) { return block.file == nullptr; };
  const auto last = std::find_if(blocks_.rbegin(), blocks_.rend(), missing);
  const auto count = static_cast<size_t>(std::distance(last, blocks_.rend()));
  if (count == 0) return;
  const std::unique_ptr<Backend> backend = make_cpu_backend(pool_);
  learn_tables_once();
  measure_gradients_once();
  const std::unique_ptr<Weight> embedding = view_plain(plan_.ends[0], ends_[0].bytes);
  CalibrationStream stream({model_.get(), embedding.get(), request_.calibration,
                            work_.blocks.trains() ? TeacherStream::kKept : TeacherStream::kNone},
                           *backend, pool_);
  for (size_t i = 0; i < count; ++i) {
    const auto index = static_cast<int64_t>(i);
    if (missing(blocks_[i])) {
      const FinishedBlock block = compress_one(i, stream);
      checkpoint_.check_unchanged();  // before it is kept for runs to come
      store_.save(index, block);
      blocks_[i] = store_.load(index, tensors_of(plan_.blocks[i], checkpoint_));
      CHECK(!missing(blocks_[i]));
    } else {
      stream.advance_teacher(index, control_);
    }
    if (i + 1 == count) break;
    put_in_place(blocks_[i], plan_.blocks[i]);
    stream.advance(index, control_);
  }
}

bool Compression::can_tune() const {
  const Tunable answer = tunable(plan_);
  if (answer == Tunable::kTooLarge && control_.on_progress)
    control_.on_progress({"tune", 0, 0, "left out: the model is too large to be tuned whole"});
  return answer == Tunable::kYes;
}

/// Whether there was something to take the place of what was fitted.
bool Compression::take_tuned(const TunedStore& store) {
  std::optional<TunedStore::Found> found = store.load();
  if (!found.has_value()) return false;
  blocks_ = std::move(found->blocks);
  if (!found->tables.empty()) tables_ = std::move(found->tables);
  for (size_t m = 0; m < found->ends.size(); ++m)
    ends_[store.moving()[m]] = std::move(found->ends[m]);
  return true;
}

/// The original but for what no tuning moves, which is as it will be written.
std::unique_ptr<Model> Compression::load_student() const {
  std::unique_ptr<Model> student = architecture_.load(checkpoint_, WeightMode::kAsStored);
  for (size_t i = 0; i < ends_.size(); ++i) {
    const std::string& name = i == 0 ? manifest_.embedding : manifest_.head;
    Linear end;
    end.name = name;
    end.shape = plan_.ends[i].shape;
    end.parts.push_back({view_plain(plan_.ends[i], ends_[i].bytes), {}});
    student->replace_linear(name, std::move(end));
  }
  for (size_t i = 0; i < blocks_.size(); ++i)
    for (const KeptLinear& kept : plan_.blocks[i].kept)
      student->replace_linear(kept.spec->name, linear_of(kept, *blocks_[i].file));
  return student;
}

void Compression::tune_blocks() {
  if (work_.tune.steps == 0 || !can_tune()) return;
  tuned_ = true;
  TunedStore store(store_, plan_, checkpoint_, moving_ends(plan_, work_.tune));
  if (take_tuned(store)) return;
  learn_tables_once();
  FittedModel fitted;
  fitted.tables = tables_;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    fitted.blocks.push_back(
        unpack_block(plan_.blocks[i], *blocks_[i].file, blocks_[i].linears, tables_));
  }
  const std::unique_ptr<Model> teacher = architecture_.load(checkpoint_, WeightMode::kAsStored);
  const std::unique_ptr<Model> student = load_student();
  TuneRequest request{&manifest_,           teacher.get(), student.get(), {},
                      request_.calibration, work_.tune,    request_.seed, store_.directory()};
  const bool tied = plan_.ends.size() == 1;
  for (const size_t i : store.moving()) {
    const std::string& name = i == 0 ? manifest_.embedding : manifest_.head;
    request.ends.push_back({find_group_coding(plan_.ends[i].bits), ends_[i].bytes,
                            teacher->find_linear(name)->parts[0].weight.get(), i == 0,
                            tied || i == 1});
  }
  store.save(tune(request, std::move(fitted), pool_, control_));
  CHECK(take_tuned(store));
}

CompressResult Compression::run() {
  CompressResult result;
  with_unchanged(checkpoint_, [&] { result = run_all(); });
  store_.remove();
  return result;
}

/// Rates follow what errors cost. What was measured is kept beside the blocks, which depend on it.
void Compression::measure_sensitivities_once() {
  if (work_.sensitivity_windows == 0) return;
  Sensitivities& found = plan_request_.sensitivities;
  found = store_.load_numbers("sensitivities");
  size_t linears = 0;
  for (const BlockSpec& block : manifest_.blocks) linears += block.linears.size();
  if (found.size() != linears) {
    found = measure_sensitivities(
        {&manifest_, model_.get(), request_.calibration, work_.sensitivity_windows}, pool_,
        control_);
    checkpoint_.check_unchanged();
    store_.save_numbers("sensitivities", found);
  }
  plan_ = plan_compression(plan_request_);
  predicted_ = predict();
}

/// What the work will hold at most, before it begins.
void Compression::report_plan() const {
  if (!control_.on_progress) return;
  const auto megabytes = [](uint64_t bytes) {
    return std::to_string((bytes + 999'999) / 1'000'000);
  };
  const CompressMemory& memory = predicted_.memory;
  control_.on_progress({"plan", 0, 0,
                        "at most " + megabytes(memory.private_bytes()) + " MB of memory, and " +
                            megabytes(memory.original + memory.result) + " MB of mapped files"});
}

PredictedCost Compression::predict() const {
  return cost_of(request_, plan_, {&checkpoint_, &manifest_, model_.get(), process_bytes_},
                 size_of(request_.calibration), speeds_);
}

CompressResult Compression::run_all() {
  speeds_ = measure_speeds(pool_);
  release_free_heap();
  predicted_ = predict();
  if (request_.over_limit != OverLimit::kIgnore) {
    check_compression_memory(
        predicted_.memory, memory_limit(request_.memory_budget, system_memory(), process_memory()));
  }
  report_plan();
  measure_sensitivities_once();
  find_stored_blocks();
  for (const PlainTensor& end : plan_.ends) ends_.push_back(make_plain(end, checkpoint_));
  compress_missing_blocks();
  // The stages' own blocks would stay in the heap beside the next stage's.
  release_free_heap();
  tune_blocks();
  release_free_heap();
  learn_tables_once();
  const std::vector<FinishedTensor> tables = table_files(tables_);
  const WrittenModel written = write_model(
      {request_.out, &checkpoint_, &manifest_, &ends_, &plan_, &blocks_, &tables}, control_);
  CompressResult result;
  result.plan = describe_plan(plan_, plan_request_);
  result.plan.costs.push_back(predicted_);
  result.plan.gemm_gflops = speeds_.gemm * 1e-9;
  result.bits_per_weight_body = written.bits_per_weight_body;
  result.bits_per_weight_file = written.bits_per_weight_file;
  result.bytes = written.bytes;
  result.resumed_blocks = resumed_;
  result.tuned = tuned_;
  result.held_out_windows = static_cast<int64_t>(held_out_windows(request_.calibration.size()));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const StoredBlock& block = blocks_[i];
    result.linears.insert(result.linears.end(), block.linears.begin(), block.linears.end());
    for (const KeptLinear& kept : plan_.blocks[i].kept)
      result.linears.push_back(report_on(kept, *block.file, checkpoint_));
  }
  return result;
}

}  // namespace

CompressResult compress(const CompressRequest& request, JobControl& control) {
  const auto begin = std::chrono::steady_clock::now();
  StageClock clock(control, "prepare");
  CompressResult result = Compression(request, control).run();
  result.stages = clock.times();
  result.wall_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace subbit
