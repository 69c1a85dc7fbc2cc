// What the addon keeps for each environment it is loaded into.
#pragma once

#include <napi.h>

#include "job.h"

namespace subbit::binding {

struct AddonData {
  Napi::FunctionReference model_constructor;
  JobThreads threads;  // last: joined before the rest goes
};

}  // namespace subbit::binding
