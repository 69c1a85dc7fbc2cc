// The planning side of compression between JavaScript values and the engine's structs. See
// convert.h.
#pragma once

#include <napi.h>
#include <vector>

#include "engine.h"

namespace subbit::binding {

/// Fields target, keep, ends.
void read_plan_options(const Napi::Object& in, CompressRequest& out);
CompressPlanRequest to_compress_plan_request(const Napi::Object& in);
Napi::Value from_stage_times(Napi::Env env, const std::vector<StageTime>& stages);
Napi::Value from_compress_plan(Napi::Env env, const CompressPlan& plan);

}  // namespace subbit::binding
