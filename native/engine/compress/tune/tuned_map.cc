// The one place that knows which map tunes which form.
#include "compress/tune/tuned_map.h"

#include <variant>

#include "base/check.h"
#include "compress/tune/factored_map.h"

namespace subbit {

std::unique_ptr<TunedMap> make_tuned_map(const FittedLinear& linear, const TunedMapOptions& options,
                                         ThreadPool& pool) {
  CHECK(std::holds_alternative<FactoredFit>(linear.fit));
  return std::make_unique<FactoredMap>(linear, options.latent_start, options.rounding, pool);
}

}  // namespace subbit
