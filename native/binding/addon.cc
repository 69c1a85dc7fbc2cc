// The addon's exports: the functions of NativeAddon in lib/native.ts.
#include "addon.h"

#include <string>
#include <utility>

#include "convert.h"
#include "convert_memory.h"
#include "convert_plan.h"
#include "engine.h"
#include "native_model.h"

namespace subbit::binding {
namespace {

Napi::Value load_model(const Napi::CallbackInfo& info) {
  LoadRequest request = to_load_request(info[0].ToObject());
  return Job::run(info.Env(), info[1].As<Napi::Function>(),
                  [request = std::move(request)](JobControl& control) -> Job::ToJs {
                    auto model = LoadedModel::load(request, control);
                    return [model](Napi::Env env) { return NativeModel::create(env, model); };
                  });
}

Napi::Value evaluate(const Napi::CallbackInfo& info) {
  EvaluateRequest request = to_evaluate_request(info[0].ToObject());
  return Job::run(info.Env(), info[1].As<Napi::Function>(),
                  [request = std::move(request)](JobControl& control) -> Job::ToJs {
                    const EvaluateResult result = subbit::evaluate(request, control);
                    return [result](Napi::Env env) { return from_evaluate_result(env, result); };
                  });
}

Napi::Value compress(const Napi::CallbackInfo& info) {
  CompressRequest request = to_compress_request(info[0].ToObject());
  return Job::run(info.Env(), info[1].As<Napi::Function>(),
                  [request = std::move(request)](JobControl& control) -> Job::ToJs {
                    const CompressResult result = subbit::compress(request, control);
                    return [result](Napi::Env env) { return from_compress_result(env, result); };
                  });
}

Napi::Value synthesize(const Napi::CallbackInfo& info) {
  SynthesizeRequest request = to_synthesize_request(info[0].ToObject());
  return Job::run(info.Env(), info[1].As<Napi::Function>(),
                  [request = std::move(request)](JobControl& control) -> Job::ToJs {
                    const SynthesizeResult result = subbit::synthesize(request, control);
                    return [result](Napi::Env env) { return from_synthesize_result(env, result); };
                  });
}

Napi::Value read_bandwidth(const Napi::CallbackInfo& info) {
  const int threads = info[0].ToNumber().Int32Value();
  return Job::run(info.Env(), Napi::Function::New(info.Env(), [](const Napi::CallbackInfo&) {}),
                  [threads](JobControl& control) -> Job::ToJs {
                    const double rate = measure_read_bandwidth(threads, control);
                    return [rate](Napi::Env env) { return Napi::Number::New(env, rate); };
                  });
}

Napi::Value peak_memory(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(peak_memory_bytes()));
}

Napi::Value plan_compress(const Napi::CallbackInfo& info) {
  CompressPlanRequest request = to_compress_plan_request(info[0].ToObject());
  return Job::run(info.Env(), info[1].As<Napi::Function>(),
                  [request = std::move(request)](JobControl& control) -> Job::ToJs {
                    const CompressPlan plan = subbit::plan_compress(request, control);
                    return [plan](Napi::Env env) { return from_compress_plan(env, plan); };
                  });
}

Napi::Function no_progress(Napi::Env env) {
  return Napi::Function::New(env, [](const Napi::CallbackInfo&) {});
}

Napi::Value estimate_memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  MemoryRequest request = to_memory_request(info[0].ToObject());
  return Job::run(env, no_progress(env),
                  [request = std::move(request)](JobControl&) -> Job::ToJs {
                    const MemoryEstimate estimate = subbit::estimate_memory(request);
                    return
                        [estimate](Napi::Env env) { return from_memory_estimate(env, estimate); };
                  })
      .Get("promise");
}

Napi::Value system_memory(const Napi::CallbackInfo& info) {
  return from_system_memory(info.Env(), subbit::system_memory());
}

Napi::Value inspect(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = info[0].ToString().Utf8Value();
  return Job::run(env, no_progress(env),
                  [path](JobControl&) -> Job::ToJs {
                    const Inspection inspection = subbit::inspect(path);
                    return [inspection](Napi::Env env) { return from_inspection(env, inspection); };
                  })
      .Get("promise");
}

Napi::Value doctor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return Job::run(env, no_progress(env),
                  [](JobControl&) -> Job::ToJs {
                    const DoctorReport report = subbit::doctor();
                    return [report](Napi::Env env) { return from_doctor_report(env, report); };
                  })
      .Get("promise");
}

Napi::Value unpack_tensor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = info[0].ToString().Utf8Value();
  const std::string name = info[1].ToString().Utf8Value();
  return Job::run(env, no_progress(env),
                  [path, name](JobControl&) -> Job::ToJs {
                    const UnpackedTensor tensor = subbit::unpack_tensor(path, name);
                    return [tensor](Napi::Env env) { return from_unpacked(env, tensor); };
                  })
      .Get("promise");
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto data = std::make_unique<AddonData>();
  data->model_constructor = Napi::Persistent(NativeModel::define(env));
  env.SetInstanceData(data.release());
  exports.Set("version", std::string(engine_version()));
  exports.Set("loadModel", Napi::Function::New<load_model>(env, "loadModel"));
  exports.Set("evaluate", Napi::Function::New<evaluate>(env, "evaluate"));
  exports.Set("compress", Napi::Function::New<compress>(env, "compress"));
  exports.Set("synthesize", Napi::Function::New<synthesize>(env, "synthesize"));
  exports.Set("readBandwidth", Napi::Function::New<read_bandwidth>(env, "readBandwidth"));
  exports.Set("doctor", Napi::Function::New<doctor>(env, "doctor"));
  exports.Set("peakMemory", Napi::Function::New<peak_memory>(env, "peakMemory"));
  exports.Set("estimateMemory", Napi::Function::New<estimate_memory>(env, "estimateMemory"));
  exports.Set("systemMemory", Napi::Function::New<system_memory>(env, "systemMemory"));
  exports.Set("planCompress", Napi::Function::New<plan_compress>(env, "planCompress"));
  exports.Set("inspect", Napi::Function::New<inspect>(env, "inspect"));
  exports.Set("unpackTensor", Napi::Function::New<unpack_tensor>(env, "unpackTensor"));
  return exports;
}

}  // namespace
}  // namespace subbit::binding

static Napi::Object subbit_init(Napi::Env env, Napi::Object exports) {
  return subbit::binding::init(env, exports);
}

NODE_API_MODULE(subbit, subbit_init)
