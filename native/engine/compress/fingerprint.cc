// FNV-1a over what matters, in a fixed order.
#include "compress/fingerprint.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdio>
#include <span>
#include <string_view>
#include <utility>

#include "io/json.h"

namespace subbit {
namespace {

/// FNV-1a, 64 bits (Fowler, Noll, Vo). Guards against mix-ups, not against forgers.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) state_ = (state_ ^ static_cast<uint8_t>(b)) * 0x100000001B3ull;
  }
  void add(std::string_view text) {
    add(text.size());
    add(std::as_bytes(std::span(text)));
  }
  void add(uint64_t value) { add(std::as_bytes(std::span(&value, 1))); }
  std::string hex() const {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(state_));
    return text;
  }

 private:
  uint64_t state_ = 0xCBF29CE484222325ull;
};

constexpr size_t kSampleBytes = 256;
constexpr size_t kSamples = 16;

/// Evenly spaced runs; the whole tensor when it is small.
void add_sample(std::span<const std::byte> bytes, Hash& hash) {
  if (bytes.size() <= kSampleBytes * kSamples) return hash.add(bytes);
  const size_t stride = (bytes.size() - kSampleBytes) / (kSamples - 1);
  for (size_t i = 0; i < kSamples; ++i) hash.add(bytes.subspan(i * stride, kSampleBytes));
}

std::string hash_of_source(const Checkpoint& checkpoint) {
  Hash hash;
  hash.add(checkpoint.config().dump());
  for (const TensorView& tensor : checkpoint.tensors()) {
    hash.add(tensor.name);
    hash.add(dtype_name(tensor.dtype));
    for (const int64_t size : tensor.shape) hash.add(static_cast<uint64_t>(size));
    add_sample(tensor.bytes, hash);
  }
  return hash.hex();
}

std::string hash_of_windows(const std::vector<std::vector<int32_t>>& windows) {
  Hash hash;
  for (const std::vector<int32_t>& window : windows) {
    hash.add(window.size());
    hash.add(std::as_bytes(std::span(window)));
  }
  return hash.hex();
}

const char* effort_name(Effort effort) {
  switch (effort) {
    case Effort::kFast:
      return "fast";
    case Effort::kBalanced:
      return "balanced";
    case Effort::kMax:
      return "max";
  }
  return "";
}

Json training_of(const StageTraining& training) {
  return Json(JsonArray{Json(training.updates), Json(training.tokens),
                        Json(static_cast<double>(training.rate)),
                        Json(static_cast<double>(training.scale_rate)),
                        Json(static_cast<double>(training.end_rate))});
}

Json stages_of(const CompressRequest& request) {
  const CompressStages& stages = request.stages;
  JsonObject facts;
  facts.emplace_back("tune", Json(request.tune));
  facts.emplace_back("rates", Json(static_cast<int64_t>(stages.rates)));
  facts.emplace_back("forms", Json(static_cast<int64_t>(stages.forms)));
  facts.emplace_back("gradient_windows", Json(stages.gradient_windows));
  facts.emplace_back("sensitivity_windows", Json(stages.sensitivity_windows));
  facts.emplace_back("teacher_tokens", Json(stages.teacher_tokens));
  facts.emplace_back("absorb", training_of(stages.absorb));
  facts.emplace_back("refine", training_of(stages.refine));
  facts.emplace_back("block", training_of(stages.block));
  facts.emplace_back("model", training_of(stages.model));
  return Json(std::move(facts));
}

/// What is as it always was is not named, so that the work of earlier versions is found.
void add_target(const CompressRequest& request, JsonObject& facts) {
  const CompressTarget& target = request.target;
  if (target.unit == CompressTarget::Unit::kBodyBits) {
    facts.emplace_back("bits_per_weight", Json(target.amount));
  } else {
    facts.emplace_back("target", Json(JsonArray{Json(static_cast<int64_t>(target.unit)),
                                                Json(target.amount), Json(target.context_length)}));
  }
  JsonArray rules;
  for (const KeepRule& rule : request.keep) {
    rules.push_back(Json(
        JsonArray{Json(rule.pattern), Json(static_cast<int64_t>(rule.rule)), Json(rule.bits)}));
  }
  if (!rules.empty()) facts.emplace_back("keep", Json(std::move(rules)));
  const EndBits usual;
  if (request.ends.embedding == usual.embedding && request.ends.head == usual.head) return;
  facts.emplace_back("ends", Json(JsonArray{Json(static_cast<int64_t>(request.ends.embedding)),
                                            Json(static_cast<int64_t>(request.ends.head))}));
}

}  // namespace

Fingerprint fingerprint(const CompressRequest& request, const Checkpoint& checkpoint) {
  JsonObject facts;
  facts.emplace_back("engine", Json(std::string(engine_version())));
  facts.emplace_back("source", Json(hash_of_source(checkpoint)));
  facts.emplace_back("source_bytes", Json(static_cast<int64_t>(checkpoint.file_bytes())));
  facts.emplace_back("calibration", Json(hash_of_windows(request.calibration)));
  add_target(request, facts);
  facts.emplace_back("effort", Json(std::string(effort_name(request.effort))));
  facts.emplace_back("seed", Json(std::to_string(request.seed)));
  facts.emplace_back("stages", stages_of(request));
  Fingerprint result;
  result.text = Json(std::move(facts)).dump();
  Hash hash;
  hash.add(result.text);
  result.key = hash.hex();
  return result;
}

}  // namespace subbit
