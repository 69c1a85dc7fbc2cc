// A small random generator with its own normal distribution: the standard library's differ
// between vendors, and the same seed must give the same bytes everywhere.
#pragma once

#include <cstdint>

namespace subbit {

/// SplitMix64 (Steele, Lea, Flood 2014). Any seed is a good seed.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Approximately standard normal: the sum of twelve uniforms less six. No log or cosine, whose
  /// last bits differ between C libraries; the tails end at 6, which no caller minds.
  float normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return static_cast<float>(sum);
  }

 private:
  uint64_t state_;
};

}  // namespace subbit
