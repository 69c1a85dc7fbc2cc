// A model of test/fixtures/models, opened as the compressor opens one.
#pragma once

#include <memory>
#include <string>

#include "io/checkpoint.h"
#include "models/model.h"
#include "support/test.h"

namespace subbit::test {

struct TinyModel {
  explicit TinyModel(const std::string& name)
      : checkpoint(Checkpoint::open(fixture("models/" + name))),
        architecture(find_architecture(checkpoint.config(), checkpoint.path())),
        manifest(architecture.manifest(checkpoint.config(), checkpoint.path())),
        model(architecture.load(checkpoint, WeightMode::kAsStored)) {}

  Checkpoint checkpoint;
  const Architecture& architecture;
  Manifest manifest;
  std::unique_ptr<Model> model;
};

}  // namespace subbit::test
