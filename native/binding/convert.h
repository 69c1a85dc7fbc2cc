// Between JavaScript values and the engine's plain structs. No policy: what is missing or of the
// wrong type is a TypeError, ranges are the engine's and lib's business.
#pragma once

#include <cstdint>
#include <napi.h>
#include <string>
#include <vector>

#include "engine.h"

namespace subbit::binding {

LoadRequest to_load_request(const Napi::Object& in);
GenerateRequest to_generate_request(const Napi::Object& in);
EvaluateRequest to_evaluate_request(const Napi::Object& in);
CompressRequest to_compress_request(const Napi::Object& in);
SynthesizeRequest to_synthesize_request(const Napi::Object& in);
KvCacheType to_kv_cache_type(const std::string& name);
/// Fields that must be there. Throw a TypeError that names them.
double number_field(const Napi::Object& in, const char* name);
std::string text_field(const Napi::Object& in, const char* name);
/// An Int32Array, copied.
std::vector<int32_t> to_tokens(const Napi::Value& in);

Napi::Value from_progress(Napi::Env env, const Progress& progress);
Napi::Object from_device(Napi::Env env, const DeviceFacts& device);
Napi::Value from_doctor_report(Napi::Env env, const DoctorReport& report);
Napi::Value from_facts(Napi::Env env, const ModelFacts& facts);
Napi::Value from_generate_result(Napi::Env env, const GenerateResult& result);
Napi::Value from_score_result(Napi::Env env, const ScoreResult& result);
Napi::Value from_evaluate_result(Napi::Env env, const EvaluateResult& result);
Napi::Value from_inspection(Napi::Env env, const Inspection& inspection);
Napi::Value from_unpacked(Napi::Env env, const UnpackedTensor& tensor);
Napi::Value from_compress_result(Napi::Env env, const CompressResult& result);
Napi::Value from_synthesize_result(Napi::Env env, const SynthesizeResult& result);

/// An Error object with `code` and `details`. lib/errors.ts makes the user's error of it.
Napi::Value from_error(Napi::Env env, const Error& error);

}  // namespace subbit::binding
