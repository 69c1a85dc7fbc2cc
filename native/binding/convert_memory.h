// Conversions of what the engine says about memory.
#pragma once

#include <napi.h>

#include "engine.h"

namespace subbit::binding {

MemoryRequest to_memory_request(const Napi::Object& in);

Napi::Value from_system_memory(Napi::Env env, const SystemMemory& memory);
Napi::Value from_memory_estimate(Napi::Env env, const MemoryEstimate& estimate);
Napi::Value from_memory_report(Napi::Env env, const MemoryReport& report);

}  // namespace subbit::binding
