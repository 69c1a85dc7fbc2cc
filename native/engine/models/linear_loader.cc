// Choosing formats by tensor name.
#include "models/linear_loader.h"

#include <utility>

#include "base/error.h"
#include "formats/registry.h"

namespace subbit {
namespace {

/// How a format is spelled at the end of a tensor's name.
struct Suffix {
  const char* suffix;
  const char* format;
};
constexpr Suffix kSuffixes[] = {{".packed", "packed"}, {".int2", "int2"}, {".int3", "int3"},
                                {".int4", "int4"},     {".int8", "int8"}, {".weight", "dense"}};

/// Tables are claimed when a linear names them, so one that none names is left over.
SharedTables tables_in(TensorClaims& claims) {
  return [&claims](int number) { return claims.claim_if_present(shared_table_name(number)); };
}

/// The tensor `stem` + suffix in the first format that has one; null if none has.
std::shared_ptr<const Weight> find_weight(const std::string& stem, Shape shape,
                                          TensorClaims& claims) {
  for (const Suffix& suffix : kSuffixes) {
    const TensorView* tensor = claims.claim_if_present(stem + suffix.suffix);
    if (tensor != nullptr) {
      return find_format(suffix.format)->view(*tensor, shape, tables_in(claims));
    }
  }
  return nullptr;
}

Linear::Part make_part(std::shared_ptr<const Weight> weight, WeightMode mode) {
  Linear::Part part;
  if (mode == WeightMode::kUnpackedFloat) {
    // The packed bias would be lost with the packed bytes.
    part.bias.assign(weight->bias().begin(), weight->bias().end());
    weight = unpack_to_dense(*weight);
  }
  part.weight = std::move(weight);
  return part;
}

}  // namespace

std::shared_ptr<const Weight> load_weight(const std::string& tensor_name, Shape shape,
                                          WeightMode mode, TensorClaims& claims) {
  const std::string stem = tensor_name.substr(0, tensor_name.rfind('.'));
  auto weight = find_weight(stem, shape, claims);
  if (weight != nullptr && mode == WeightMode::kUnpackedFloat) weight = unpack_to_dense(*weight);
  return weight;
}

Linear load_linear(const LinearSpec& spec, BiasRule bias, WeightMode mode, TensorClaims& claims) {
  Linear linear;
  linear.name = spec.name;
  linear.shape = spec.shape;
  if (const TensorView* whole = claims.claim_if_present(spec.name + ".packed")) {
    auto weight = find_format("packed")->view(*whole, spec.shape, tables_in(claims));
    linear.parts.push_back(make_part(std::move(weight), mode));
    return linear;
  }
  for (size_t i = 0; i < spec.parts.size(); ++i) {
    const std::string& name = spec.parts[i];
    auto weight = find_weight(name, {spec.part_rows[i], spec.shape.cols}, claims);
    if (weight == nullptr) {
      throw Error(ErrorCode::kCorruptFile, "no weight for " + name,
                  {{"tensor", name},
                   {"expected", name + ".weight (or .packed, .int2, .int3, .int4, .int8)"}});
    }
    const bool packed = weight->format() == "packed";
    Linear::Part part = make_part(std::move(weight), mode);
    if (bias == BiasRule::kExpected && !packed) {
      part.bias = read_vector(claims.claim(name + ".bias"), spec.part_rows[i]);
    }
    linear.parts.push_back(std::move(part));
  }
  return linear;
}

void check_quantization(const Json& config, const std::string& where) {
  const Json* quantization = config.find("quantization_config");
  if (quantization == nullptr || quantization->is_null()) return;
  const Json* method = quantization->find("quant_method");
  const std::string* name = method == nullptr ? nullptr : method->if_string();
  if (name == nullptr || *name != "subbit") {
    throw Error(ErrorCode::kUnsupportedFormat,
                "the model in " + where + " was quantized by another tool",
                {{"file", where},
                 {"expected", "subbit, or no quantization"},
                 {"actual", name == nullptr ? "no quant_method" : *name}});
  }
  const Json* version = quantization->find("layout_version");
  const int64_t* number = version == nullptr ? nullptr : version->if_int();
  if (number == nullptr || *number != kLayoutVersion) {
    throw Error(ErrorCode::kUnsupportedFormat, "the packed layout of " + where + " is unknown",
                {{"file", where},
                 {"expected", "layout_version " + std::to_string(kLayoutVersion)},
                 {"actual", number == nullptr ? "none" : std::to_string(*number)}});
  }
}

}  // namespace subbit
