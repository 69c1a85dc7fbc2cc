// A model, opened as the compressor opens one.
#pragma once

#include <memory>
#include <string>

#include "io/checkpoint.h"
#include "models/model.h"
#include "support/test.h"

namespace subbit::test {

struct OpenedModel {
  explicit OpenedModel(const std::string& path)
      : checkpoint(Checkpoint::open(path)),
        architecture(find_architecture(checkpoint.config(), checkpoint.path())),
        manifest(architecture.manifest(checkpoint.config(), checkpoint.path())),
        model(architecture.load(checkpoint, WeightMode::kAsStored)) {}

  Checkpoint checkpoint;
  const Architecture& architecture;
  Manifest manifest;
  std::unique_ptr<Model> model;
};

/// One of test/fixtures/models.
struct TinyModel : OpenedModel {
  explicit TinyModel(const std::string& name) : OpenedModel(fixture("models/" + name)) {}
};

}  // namespace subbit::test
