// The one place that knows which map tunes which form.
#include "compress/tune/tuned_map.h"

#include <variant>

#include "base/check.h"
#include "compress/tune/coded_map.h"
#include "compress/tune/factored_map.h"

namespace subbit {

std::unique_ptr<TunedMap> make_tuned_map(const FittedLinear& linear, const TunedMapOptions& options,
                                         ThreadPool& pool) {
  if (std::holds_alternative<CodedFit>(linear.fit)) {
    CHECK(options.tables != nullptr);
    return std::make_unique<CodedMap>(linear, *options.tables, options, pool);
  }
  return std::make_unique<FactoredMap>(linear, options.latent_start, options.rounding, pool);
}

}  // namespace subbit
