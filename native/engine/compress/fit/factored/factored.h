// The whole fit of one linear in the factored format: weighting, signs, scales, errors, and the
// packed form. Knows a matrix and how much its inputs and outputs matter; not where they come from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "compress/fit/factored/lb_admm.h"
#include "formats/packed/pack.h"

namespace subbit {

/// What an input or an output is worth, not negative; empty means all alike.
struct Importance {
  std::span<const float> inputs;   // [cols]: mean x_j^2
  std::span<const float> outputs;  // [rows]: mean squared gradient, once tuning supplies it
};

struct FactoredOptions {
  int64_t rank = 0;  // a multiple of kRankUnit
  int iterations = 0;
  uint64_t seed = 0;
  /// Importance is pulled towards its mean by this fraction: moments of a finite text are noisy,
  /// and a column never seen must not be free.
  float shrinkage = 0.2f;
};

/// w ~ diag(s_post) U V diag(s_pre). The root mean square of s_pre is one.
struct FactoredFit {
  SignMatrix u;               // [rows, rank]
  SignMatrix v;               // [rank, cols]
  std::vector<float> s_post;  // [rows]
  std::vector<float> s_pre;   // [cols]
  double weight_error = 0.0;  // ||w - what||^2 / ||w||^2
  double output_error = 0.0;  // the same, columns weighted by the inputs' plain importance
};

/// Throws kNonFinite when `w` or an importance is not finite. The same values and options give the
/// same fit on any number of threads.
/// Memory: (2 rows cols + 4 rank (rows + cols) + rank^2) floats beside `w`.
FactoredFit fit_factored(ConstMatrix w, const Importance& importance,
                         const FactoredOptions& options, ThreadPool& pool,
                         const FitStep& before_iteration);

/// The one term of a factored linear before it is fitted.
PackedSize::Term factored_term(Shape shape, int64_t rank);
/// Whether `size` is what this fit makes: one factored term over all columns.
bool is_factored(const PackedSize& size);
std::vector<std::byte> pack_factored(const FactoredFit& fit, bool own_pre_scale,
                                     std::vector<float> bias);

/// The inverse of pack_factored, up to the rounding of the scales to halves: signs, s_post with the
/// gain in it, s_pre (ones where it was folded away), and the bias. `bytes` aligned to 4. Throws
/// kCorruptFile, kUnsupportedFormat.
FactoredFit unpack_factored(std::span<const std::byte> bytes, const std::string& where,
                            std::vector<float>& bias);

/// Reads `bytes` back as the runtime will and compares rows spread over the matrix with the fit.
/// Throws kInternal, naming `where`, when an element is off by more than the rounding of its two
/// half scales. (Each row costs rank * cols steps of the slow reference, so not all are read.)
void verify_factored(std::span<const std::byte> bytes, const FactoredFit& fit,
                     const std::string& where);

}  // namespace subbit
