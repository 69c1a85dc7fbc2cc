// generate, score and dispose as JavaScript calls. Tokens travel one by one: at a few hundred a
// second the crossing costs nothing next to the token.
#include "native_model.h"

#include <utility>

#include "addon.h"
#include "convert.h"
#include "convert_memory.h"

namespace subbit::binding {
namespace {

Napi::Function no_callback(Napi::Env env) {
  return Napi::Function::New(env, [](const Napi::CallbackInfo&) {});
}

}  // namespace

Napi::Function NativeModel::define(Napi::Env env) {
  return DefineClass(
      env, "NativeModel",
      {InstanceAccessor<&NativeModel::facts>("facts"),
       InstanceMethod<&NativeModel::generate>("generate"),
       InstanceMethod<&NativeModel::score>("score"),
       InstanceMethod<&NativeModel::fill_context>("fillContext"),
       InstanceMethod<&NativeModel::memory>("memory"), InstanceMethod<&NativeModel::trim>("trim"),
       InstanceMethod<&NativeModel::dispose>("dispose")});
}

Napi::Value NativeModel::create(Napi::Env env, std::shared_ptr<LoadedModel> model) {
  auto carrier = Napi::External<std::shared_ptr<LoadedModel>>::New(env, &model);
  return env.GetInstanceData<AddonData>()->model_constructor.New({carrier});
}

NativeModel::NativeModel(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeModel>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "a NativeModel is made by loadModel()");
  }
  model_ = *info[0].As<Napi::External<std::shared_ptr<LoadedModel>>>().Data();
}

LoadedModel& NativeModel::loaded(Napi::Env env) {
  if (model_ != nullptr) return *model_;
  const Error disposed(ErrorCode::kDisposed, "the model has been disposed");
  throw Napi::Error(env, from_error(env, disposed));
}

Napi::Value NativeModel::facts(const Napi::CallbackInfo& info) {
  return from_facts(info.Env(), loaded(info.Env()).facts());
}

Napi::Value NativeModel::generate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  LoadedModel& model = loaded(env);
  GenerateRequest request = to_generate_request(info[0].ToObject());
  auto job = std::make_shared<Job>(env, info[1].As<Napi::Function>());
  Napi::Object handle = job->handle(env);
  model.generate(
      std::move(request), job->control(),
      [job](int32_t token) {
        job->channel().post([token](Napi::Env env, Napi::Function on_token) {
          on_token.Call({Napi::Number::New(env, token)});
        });
      },
      [job](const GenerateResult& result, const Error* error) {
        if (error != nullptr) return job->reject(*error);
        job->resolve([result](Napi::Env env) { return from_generate_result(env, result); });
      });
  return handle;
}

Napi::Value NativeModel::score(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  LoadedModel& model = loaded(env);
  std::vector<int32_t> tokens = to_tokens(info[0]);
  auto job = std::make_shared<Job>(env, no_callback(env));
  Napi::Object handle = job->handle(env);
  model.score(std::move(tokens), job->control(),
              [job](const ScoreResult& result, const Error* error) {
                if (error != nullptr) return job->reject(*error);
                job->resolve([result](Napi::Env env) { return from_score_result(env, result); });
              });
  return handle;
}

Napi::Value NativeModel::fill_context(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  LoadedModel& model = loaded(env);
  const int64_t tokens = info[0].ToNumber().Int64Value();
  auto job = std::make_shared<Job>(env, no_callback(env));
  Napi::Object handle = job->handle(env);
  model.fill_context(tokens, job->control(), [job](const Error* error) {
    if (error != nullptr) return job->reject(*error);
    job->resolve([](Napi::Env env) { return env.Undefined(); });
  });
  return handle;
}

Napi::Value NativeModel::memory(const Napi::CallbackInfo& info) {
  return from_memory_report(info.Env(), loaded(info.Env()).memory());
}

Napi::Value NativeModel::trim(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  LoadedModel& model = loaded(env);
  const auto what = info[0].ToBoolean().Value() ? LoadedModel::Trim::kForgetContext
                                                : LoadedModel::Trim::kKeepContext;
  auto job = std::make_shared<Job>(env, no_callback(env));
  Napi::Object handle = job->handle(env);
  model.trim(what, job->control(), [job](uint64_t bytes, const Error* error) {
    if (error != nullptr) return job->reject(*error);
    job->resolve([bytes](Napi::Env env) { return Napi::Number::New(env, double(bytes)); });
  });
  return handle;
}

Napi::Value NativeModel::dispose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  // The engine thread is joined and the memory freed off the JavaScript thread, and before the
  // promise resolves: left to the garbage collector, which sees only a small object, it would stay.
  Napi::Object handle =
      Job::run(env, no_callback(env), [model = std::move(model_)](JobControl&) mutable {
        if (model != nullptr) model->dispose();
        model.reset();
        return Job::ToJs([](Napi::Env env) { return env.Undefined(); });
      });
  return handle.Get("promise");
}

}  // namespace subbit::binding
