// A checkpoint and the model over it, with the threads and the back end it runs on: what loading
// and evaluating have in common.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "engine.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {

class OpenedModel {
 public:
  /// `control` may abort between the steps. Throws Error.
  OpenedModel(const std::string& path, bool unpack_to_float, JobControl& control);

  const Checkpoint& checkpoint() const { return checkpoint_; }
  Model& model() { return *model_; }
  const Model& model() const { return *model_; }

 private:
  Checkpoint checkpoint_;
  std::unique_ptr<Model> model_;  // views the checkpoint
};

/// 0 stands for the machine's default. Throws kInvalidOption outside 0..256.
int resolve_threads(int requested);

/// backend.h's name for it.
KvType kv_type(KvCacheType type);

}  // namespace subbit
