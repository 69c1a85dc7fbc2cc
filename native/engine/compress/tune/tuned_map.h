// A linear layer of the student: a map the tape can play and tuning can move, whatever form the
// linear was fitted in.
#pragma once

#include <memory>
#include <string>

#include "backend/tape/linear_map.h"
#include "base/thread_pool.h"
#include "compress/fit/fitted_block.h"
#include "compress/tune/adam.h"
#include "compress/tune/saved_state.h"

namespace subbit {

/// Whether activations pass through their codes.
enum class CodeRounding { kOn, kOff };

/// Once a step: finish_gradients(), then step() or drop_gradients().
class TunedMap : public LinearMap {
 public:
  /// Turns what backward() gathered into gradients of the parameters. Returns the sum of all
  /// squared gradients.
  virtual double finish_gradients() = 0;
  virtual void step(const AdamStep& latents, const AdamStep& scales) = 0;
  /// Forgets what backward() gathered.
  virtual void drop_gradients() = 0;
  /// What the next step depends on, between steps.
  virtual void list_state(const std::string& name, StateArrays& state) = 0;
  /// Codes, scales and bias as they now are, into `linear`.
  virtual void export_to(FittedLinear& linear) const = 0;
};

class TunedTables;  // compress/tune/tuned_tables.h

struct TunedMapOptions {
  float latent_start = 0.0f;  // as in SignLatents and CodeLatents
  CodeRounding rounding = CodeRounding::kOn;
  TunedTables* tables = nullptr;  // what coded linears share; outlives their maps
};

/// The map for the form `linear` has.
std::unique_ptr<TunedMap> make_tuned_map(const FittedLinear& linear, const TunedMapOptions& options,
                                         ThreadPool& pool);

}  // namespace subbit
