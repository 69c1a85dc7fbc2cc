// Every architecture, by config.json's model_type.
#include "models/registry.h"

#include "base/error.h"
#include "models/llama.h"

namespace subbit {

std::span<const Architecture* const> all_architectures() {
  static const Architecture* const architectures[] = {&llama_architecture(),
                                                      &mistral_architecture()};
  return architectures;
}

const Architecture& find_architecture(const Json& config, std::string_view where) {
  const Json* type = config.find("model_type");
  const std::string* name = type == nullptr ? nullptr : type->if_string();
  std::string known;
  for (const Architecture* architecture : all_architectures()) {
    if (name != nullptr && *name == architecture->model_type()) return *architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture->model_type());
  }
  throw Error(ErrorCode::kUnsupportedArch,
              "the architecture of " + std::string(where) + " is not supported",
              {{"file", std::string(where)},
               {"expected", known},
               {"actual", name == nullptr ? "no model_type" : name->substr(0, 100)}});
}

}  // namespace subbit
