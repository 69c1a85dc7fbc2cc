// Opening a model.
#include "runtime/opened_model.h"

#include <string>

namespace subbit {
namespace {

void report(JobControl& control, const char* phase, const std::string& detail) {
  if (control.abort) throw Error(ErrorCode::kAborted, "aborted");
  if (control.on_progress) control.on_progress({phase, 0, 0, detail});
}

Checkpoint open(const std::string& path, JobControl& control) {
  report(control, "map", path);
  return Checkpoint::open(path);
}

}  // namespace

OpenedModel::OpenedModel(const std::string& path, bool unpack_to_float, JobControl& control)
    : checkpoint_(open(path, control)) {
  report(control, unpack_to_float ? "unpack" : "verify", path);
  const auto mode = unpack_to_float ? WeightMode::kUnpackedFloat : WeightMode::kAsStored;
  with_unchanged(checkpoint_, [&] {
    model_ = find_architecture(checkpoint_.config(), path).load(checkpoint_, mode);
  });
}

int resolve_threads(int requested) {
  if (requested < 0 || requested > 256) {
    throw Error(ErrorCode::kInvalidOption, "the number of threads",
                {{"expected", "0 (automatic) to 256"}, {"actual", std::to_string(requested)}});
  }
  return requested == 0 ? ThreadPool::default_threads() : requested;
}

KvType kv_type(KvCacheType type) {
  if (type == KvCacheType::kF32) return KvType::kF32;
  return type == KvCacheType::kI8 ? KvType::kI8 : KvType::kF16;
}

}  // namespace subbit
