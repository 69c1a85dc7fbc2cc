// The JavaScript object behind a loaded model.
#pragma once

#include <memory>
#include <napi.h>

#include "engine.h"

namespace subbit::binding {

class NativeModel : public Napi::ObjectWrap<NativeModel> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(Napi::Env env, std::shared_ptr<LoadedModel> model);

  explicit NativeModel(const Napi::CallbackInfo& info);

 private:
  Napi::Value facts(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value fill_context(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value trim(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  /// Throws an error of code DISPOSED once dispose() has been called.
  LoadedModel& loaded(Napi::Env env);

  std::shared_ptr<LoadedModel> model_;  // null after dispose()
};

}  // namespace subbit::binding
