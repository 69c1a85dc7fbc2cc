// Nothing is read but headers, and speeds are measured in a moment.
#include "compress/plan_compress.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "base/process.h"
#include "base/thread_pool.h"

namespace subbit {

Checkpoint open_uncompressed(const std::string& path) {
  Checkpoint checkpoint = Checkpoint::open(path);
  const Json* quantization = checkpoint.config().find("quantization_config");
  if (quantization == nullptr || quantization->is_null()) return checkpoint;
  throw Error(ErrorCode::kInvalidOption,
              "the model in " + checkpoint.path() + " is quantized already",
              {{"option", "source"}, {"file", checkpoint.path()}});
}

PredictedCost cost_of(const CompressRequest& request, const CompressionPlan& plan,
                      const CompressSource& source, CalibrationSize text,
                      const MachineSpeeds& speeds) {
  const CompressWork work = work_of(request, *source.manifest, plan);
  CostRequest cost;
  cost.plan = &plan;
  cost.model = source.model;
  cost.effort = request.effort;
  cost.fit_iterations = work.fit_iterations;
  cost.blocks = work.blocks;
  cost.tune = work.tune;
  if (tunable(plan) != Tunable::kYes) cost.tune.steps = 0;
  if (cost.tune.steps == 0) cost.tune.teacher_tokens = 0;
  cost.gradient_windows = std::min(work.gradient_windows, text.windows);
  cost.sensitivity_windows = std::min(work.sensitivity_windows, text.windows);
  cost.calibration = text;
  cost.original_bytes = source.checkpoint->file_bytes() + source.checkpoint->private_bytes();
  cost.process.threads = request.threads > 0 ? request.threads : ThreadPool::default_threads();
  cost.process.process_bytes = source.process_bytes;
  cost.process.tokenizer_bytes = request.tokenizer_bytes;
  return predict_cost(cost, speeds);
}

CompressPlan plan_compress(const CompressPlanRequest& request, JobControl& control) {
  CompressRequest compress = request.compress;
  const Checkpoint checkpoint = open_uncompressed(compress.source);
  const Architecture& architecture = find_architecture(checkpoint.config(), checkpoint.path());
  const Manifest manifest = architecture.manifest(checkpoint.config(), checkpoint.path());
  const std::unique_ptr<Model> model = architecture.load(checkpoint, WeightMode::kAsStored);
  const CompressionRequest plan_request{
      &manifest,     model.get(),   &checkpoint,     compress.target,
      compress.keep, compress.ends, compress.stages, {}};
  const CompressionPlan plan = plan_compression(plan_request);
  CompressPlan result = describe_plan(plan, plan_request);
  if (control.abort.load()) throw Error(ErrorCode::kAborted, "the plan was aborted");
  ThreadPool pool(compress.threads > 0 ? compress.threads : ThreadPool::default_threads());
  const uint64_t process = process_memory().resident;
  const MachineSpeeds speeds = measure_speeds(pool);
  result.gemm_gflops = speeds.gemm * 1e-9;
  const std::pair<Effort, CalibrationSize> texts[] = {{Effort::kFast, request.fast},
                                                      {Effort::kBalanced, request.balanced},
                                                      {Effort::kMax, request.max}};
  for (const auto& [effort, text] : texts) {
    compress.effort = effort;
    result.costs.push_back(
        cost_of(compress, plan, {&checkpoint, &manifest, model.get(), process}, text, speeds));
  }
  return result;
}

}  // namespace subbit
