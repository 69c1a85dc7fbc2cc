// The dry run: what a compression would make of a model, and what that would cost, without doing
// any of it. compress() says the same of itself before it begins.
#pragma once

#include <cstdint>
#include <string>

#include "compress/cost.h"
#include "compress/effort.h"
#include "compress/plan.h"
#include "engine.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {

/// What is compressed.
struct CompressSource {
  const Checkpoint* checkpoint = nullptr;
  const Manifest* manifest = nullptr;
  const Model* model = nullptr;
  uint64_t process_bytes = 0;  // resident before the work
};

/// What `request` would cost, planned so, with calibration text of this size.
PredictedCost cost_of(const CompressRequest& request, const CompressionPlan& plan,
                      const CompressSource& source, CalibrationSize text,
                      const MachineSpeeds& speeds);

/// Opens what is to be compressed. Throws kInvalidOption when it is compressed already: it would be
/// fitted to its own errors.
Checkpoint open_uncompressed(const std::string& path);

}  // namespace subbit
