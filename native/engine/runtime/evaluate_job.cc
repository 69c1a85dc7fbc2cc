// evaluate(): a model, and perhaps its teacher, over windows of text.
#include <algorithm>
#include <cmath>
#include <optional>

#include "backend/cpu/cpu_backend.h"
#include "decoding/evaluate.h"
#include "engine.h"
#include "runtime/opened_model.h"

namespace subbit {
namespace {

/// A model with a decoder just long enough for the windows. Keys and values stay in float32: this
/// is the yardstick.
struct Scorer {
  OpenedModel opened;
  Decoder decoder;
  Scorer(const std::string& path, bool unpack_to_float, int64_t context, Backend& backend,
         JobControl& control)
      : opened(path, unpack_to_float, control),
        decoder(opened.model(), backend, {context, KvType::kF32}) {}
};

int64_t longest(const EvaluateRequest& request) {
  size_t tokens = 0;
  for (const auto& window : request.windows) tokens = std::max(tokens, window.size());
  if (tokens < 2) {
    throw Error(
        ErrorCode::kInvalidOption, "there is nothing to predict in the windows",
        {{"expected", "a window of at least 2 tokens"}, {"actual", std::to_string(tokens)}});
  }
  return static_cast<int64_t>(tokens) - 1;  // the last token is only predicted
}

void require_context(const Scorer& scorer, int64_t context) {
  const int64_t trained = scorer.opened.model().config().max_position_embeddings;
  if (context <= trained) return;
  throw Error(ErrorCode::kContextOverflow, "a window is longer than the model's context",
              {{"expected", "at most " + std::to_string(trained) + " tokens before the last"},
               {"actual", std::to_string(context)}});
}

void require_same_vocabulary(Scorer& model, Scorer& teacher) {
  const int64_t a = model.opened.model().config().vocab_size;
  const int64_t b = teacher.opened.model().config().vocab_size;
  if (a == b) return;
  throw Error(
      ErrorCode::kInvalidOption, "model and teacher have different vocabularies",
      {{"expected", std::to_string(b) + " tokens, as the teacher"}, {"actual", std::to_string(a)}});
}

/// Sums over all windows.
struct Totals {
  double negative_log = 0;
  double teacher_negative_log = 0;
  int64_t tokens = 0;
  int64_t same_top1 = 0;
  std::vector<double> divergences;

  void add(const WindowScore& score) {
    for (const float logprob : score.logprobs) negative_log -= logprob;
    for (const float logprob : score.teacher_logprobs) teacher_negative_log -= logprob;
    tokens += static_cast<int64_t>(score.logprobs.size());
    for (const Divergence& d : score.divergences) {
      divergences.push_back(d.kl);
      same_top1 += d.same_top1 ? 1 : 0;
    }
  }

  EvaluateResult result() {
    EvaluateResult result;
    const auto count = static_cast<double>(tokens);
    result.tokens = tokens;
    result.perplexity = std::exp(negative_log / count);
    if (divergences.empty()) return result;
    result.has_teacher = true;
    result.teacher_perplexity = std::exp(teacher_negative_log / count);
    for (const double kl : divergences) result.kl_mean += kl / count;
    const auto at = divergences.begin() + static_cast<std::ptrdiff_t>(0.99 * (count - 1));
    std::nth_element(divergences.begin(), at, divergences.end());
    result.kl_p99 = *at;
    result.top1_agreement = static_cast<double>(same_top1) / count;
    return result;
  }
};

}  // namespace

EvaluateResult evaluate(const EvaluateRequest& request, JobControl& control) {
  const int64_t context = longest(request);
  ThreadPool pool(resolve_threads(request.threads));
  const auto backend = make_cpu_backend(pool);
  Scorer model(request.path, request.unpack_to_float, context, *backend, control);
  require_context(model, context);
  std::optional<Scorer> teacher;
  if (!request.teacher_path.empty()) {
    teacher.emplace(request.teacher_path, false, context, *backend, control);
    require_context(*teacher, context);
    require_same_vocabulary(model, *teacher);
  }
  Totals totals;
  for (size_t i = 0; i < request.windows.size(); ++i) {
    if (control.on_progress) {
      control.on_progress(
          {"evaluate", static_cast<double>(i), static_cast<double>(request.windows.size()), ""});
    }
    const auto score = [&] {
      totals.add(score_window(model.decoder, teacher ? &teacher->decoder : nullptr,
                              request.windows[i], control.abort, pool));
    };
    with_unchanged(model.opened.checkpoint(), [&] {
      if (teacher) return with_unchanged(teacher->opened.checkpoint(), score);
      score();
    });
  }
  return totals.result();
}

}  // namespace subbit
