// Tensors by their names: the stem says what a tensor is, the last component its format.
#include "memory/weight_facts.h"

#include <cmath>
#include <map>
#include <string_view>

#include "formats/term.h"

namespace subbit {
namespace {

constexpr uint64_t kFloatBytes = sizeof(float);

struct Name {
  std::string_view stem;
  std::string_view suffix;
};

Name split(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {name, {}};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

std::string format_of(std::string_view suffix) {
  for (const std::string_view format : {"packed", "int2", "int3", "int4", "int8"}) {
    if (suffix == format) return std::string(format);
  }
  return "dense";
}

/// The matrices of the blocks by stem: whole stacks and their parts.
std::map<std::string, Shape, std::less<>> body_matrices(const Manifest& manifest) {
  std::map<std::string, Shape, std::less<>> shapes;
  for (const BlockSpec& block : manifest.blocks) {
    for (const LinearSpec& linear : block.linears) {
      shapes[linear.name] = linear.shape;
      for (size_t i = 0; i < linear.parts.size(); ++i) {
        shapes[linear.parts[i]] = {linear.part_rows[i], linear.shape.cols};
      }
    }
  }
  return shapes;
}

class Counting {
 public:
  Counting(const Manifest& manifest, const ModelConfig& config)
      : manifest_(manifest),
        ends_{config.vocab_size, config.hidden_size},
        hidden_(static_cast<uint64_t>(config.hidden_size)),
        body_(body_matrices(manifest)) {}

  void add(const TensorLength& tensor) {
    const auto [stem, suffix] = split(tensor.name);
    if (stem == "model.tables") {
      facts_.tables += tensor.bytes;
    } else if (stem == split(manifest_.embedding).stem && suffix != "bias") {
      facts_.embedding += tensor.bytes;
      facts_.matrices.push_back({format_of(suffix), ends_, tensor.bytes, true});
    } else if (stem == "lm_head" && suffix != "bias") {
      facts_.head += tensor.bytes;
      facts_.matrices.push_back({format_of(suffix), ends_, tensor.bytes, true});
    } else if (const auto at = body_.find(stem); at != body_.end()) {
      facts_.body += tensor.bytes;
      add_body(suffix, at->second, tensor.bytes);
    } else if (stem.starts_with("model.layers.")) {
      facts_.body += tensor.bytes;  // a norm
      facts_.widened += kFloatBytes * hidden_;
    } else {
      facts_.widened += kFloatBytes * hidden_;
    }
  }

  WeightFacts finish(uint64_t file_bytes) {
    const uint64_t known = facts_.mapped();
    facts_.rest = file_bytes > known ? file_bytes - known : 0;
    return std::move(facts_);
  }

 private:
  void add_body(std::string_view suffix, Shape shape, uint64_t bytes) {
    if (suffix == "bias") {
      facts_.widened += kFloatBytes * static_cast<uint64_t>(shape.rows);
      return;
    }
    facts_.matrices.push_back({format_of(suffix), shape, bytes, false});
    // A packed linear holds its row scales, and where it has any its column scales, as floats.
    if (suffix == "packed") {
      facts_.widened += kFloatBytes * static_cast<uint64_t>(shape.rows + shape.cols);
    }
  }

  const Manifest& manifest_;
  Shape ends_;
  uint64_t hidden_;
  std::map<std::string, Shape, std::less<>> body_;
  WeightFacts facts_;
};

/// int4: 64 columns in 32 bytes and a half, padded to a cache line.
uint64_t int4_length(Shape shape) {
  const uint64_t group = shape.cols % 64 == 0 ? 64 : 32;
  const uint64_t groups = (static_cast<uint64_t>(shape.cols) + group - 1) / group;
  const uint64_t bytes = static_cast<uint64_t>(shape.rows) * groups * (group / 2 + 2);
  return (bytes + 127) / 128 * 128;
}

}  // namespace

int most_terms(const Json& config) {
  const Json* quantization = config.find("quantization_config");
  const Json* terms = quantization == nullptr ? nullptr : quantization->find("most_terms");
  const int64_t* number = terms == nullptr ? nullptr : terms->if_int();
  constexpr int64_t kSensible = 64;
  return number == nullptr || *number < 1 || *number > kSensible ? 0 : static_cast<int>(*number);
}

WeightFacts weight_facts(const Manifest& manifest, const ModelConfig& config,
                         std::span<const TensorLength> tensors, uint64_t file_bytes) {
  Counting counting(manifest, config);
  for (const TensorLength& tensor : tensors) counting.add(tensor);
  return counting.finish(file_bytes);
}

std::vector<TensorLength> imagined_tensors(const Manifest& manifest, const ModelConfig& config,
                                           double bits) {
  const uint64_t norm = 2 * static_cast<uint64_t>(config.hidden_size);  // halves
  std::vector<TensorLength> tensors;
  for (const BlockSpec& block : manifest.blocks) {
    double weights = 0;
    for (const LinearSpec& linear : block.linears) {
      weights += static_cast<double>(linear.shape.count());
    }
    // Body bits count the norms too: what is left is the linears'.
    const double norms = static_cast<double>(norm * block.norms.size());
    const double share = std::max(0.0, bits / 8 - norms / weights);
    for (const LinearSpec& linear : block.linears) {
      const double bytes = share * static_cast<double>(linear.shape.count());
      tensors.push_back({linear.name + ".packed", static_cast<uint64_t>(std::ceil(bytes))});
    }
    for (const std::string& name : block.norms) tensors.push_back({name, norm});
  }
  const uint64_t ends = int4_length({config.vocab_size, config.hidden_size});
  tensors.push_back({std::string(split(manifest.embedding).stem) + ".int4", ends});
  if (manifest.head != manifest.embedding) tensors.push_back({"lm_head.int4", ends});
  tensors.push_back({manifest.final_norm, norm});
  return tensors;
}

}  // namespace subbit
