// Rotary position frequencies (Su et al. 2021) and the two scalings that Llama checkpoints use.
#include "models/rope.h"

#include <cmath>
#include <numbers>
#include <string>

namespace subbit {
namespace {

/// Llama 3.1's rule: long wavelengths are stretched by `factor`, short ones kept, those between
/// the two bounds blended.
void scale_llama3(const ConfigReader& scaling, std::vector<double>& frequencies) {
  const double factor = scaling.positive("factor");
  const double low = scaling.positive("low_freq_factor");
  const double high = scaling.positive("high_freq_factor");
  const double trained = scaling.positive("original_max_position_embeddings");
  if (high <= low) {
    scaling.corrupt("high_freq_factor", "more than low_freq_factor",
                    scaling.find("high_freq_factor"));
  }
  for (double& frequency : frequencies) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength > trained / low) {
      frequency /= factor;
    } else if (wavelength >= trained / high) {
      const double keep = (trained / wavelength - low) / (high - low);
      frequency = (1 - keep) * frequency / factor + keep * frequency;
    }
  }
}

void scale(const ConfigReader& scaling, std::vector<double>& frequencies) {
  // "type" is the older spelling.
  const std::string type = scaling.string_or("rope_type", scaling.string_or("type", "default"));
  if (type == "default") return;
  if (type == "llama3") {
    scale_llama3(scaling, frequencies);
  } else if (type == "linear") {
    const double factor = scaling.positive("factor");
    for (double& frequency : frequencies) frequency /= factor;
  } else {
    scaling.unsupported("rope_type", "default, linear or llama3", type);
  }
}

}  // namespace

std::vector<double> rope_frequencies(const ConfigReader& config, int64_t head_dim) {
  const Json* parameters = config.find("rope_parameters");
  double theta = config.positive_or("rope_theta", 10000.0);
  if (parameters != nullptr) {
    theta = ConfigReader(*parameters, config.where()).positive_or("rope_theta", theta);
  }
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    frequencies[i] = std::pow(theta, -exponent);
  }
  const Json* scaling = parameters != nullptr ? parameters : config.find("rope_scaling");
  if (scaling != nullptr) scale(ConfigReader(*scaling, config.where()), frequencies);
  return frequencies;
}

RopeTable make_rope_table(const std::vector<double>& frequencies, int64_t positions) {
  RopeTable table;
  table.half_dim = static_cast<int64_t>(frequencies.size());
  table.positions = positions;
  table.cosine.reserve(static_cast<size_t>(positions) * frequencies.size());
  table.sine.reserve(static_cast<size_t>(positions) * frequencies.size());
  for (int64_t position = 0; position < positions; ++position) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      table.cosine.push_back(static_cast<float>(std::cos(angle)));
      table.sine.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

}  // namespace subbit
