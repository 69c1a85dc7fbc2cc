// What choosing a token costs, by what is asked for, over vocabularies of real sizes. Logits are
// random, with a few far above the rest, as a model's are.
//
// Usage: sampler_bench [--rounds 200] [--json]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/process.h"
#include "base/rng.h"
#include "decoding/sampler.h"

namespace subbit {
namespace {

struct Setting {
  const char* name;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
};
constexpr Setting kSettings[] = {{"greedy", 0.0f, 0, 1.0f, 0.0f},
                                 {"temperature 0.8", 0.8f, 0, 1.0f, 0.0f},
                                 {"top-k 40", 0.8f, 40, 1.0f, 0.0f},
                                 {"top-p 0.9", 0.8f, 0, 0.9f, 0.0f},
                                 {"min-p 0.05", 0.8f, 0, 1.0f, 0.05f}};
constexpr int64_t kVocabularies[] = {32000, 128256};

std::vector<float> random_logits(int64_t vocab) {
  Rng rng(1);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& logit : logits) logit = 2.5f * rng.normal();
  for (size_t i = 0; i < logits.size(); i += 3001) logits[i] += 8.0f;
  return logits;
}

int run(int argc, char** argv) {
  int rounds = 200;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") json = true;
    if (argument == "--rounds" && i + 1 < argc) rounds = std::max(1, std::atoi(argv[++i]));
  }
  const char* separator = "[";
  for (const int64_t vocab : kVocabularies) {
    const std::vector<float> logits = random_logits(vocab);
    for (const Setting& setting : kSettings) {
      SamplerOptions options;
      options.temperature = setting.temperature;
      options.top_k = setting.top_k;
      options.top_p = setting.top_p;
      options.min_p = setting.min_p;
      Sampler sampler(options);
      std::vector<float> scratch;
      std::vector<double> seconds;
      for (int round = 0; round < rounds; ++round) {
        scratch = logits;
        const double start = process_cpu_seconds();
        sampler.sample(scratch);
        seconds.push_back(process_cpu_seconds() - start);
      }
      std::sort(seconds.begin(), seconds.end());
      const double middle = seconds[seconds.size() / 2];
      if (json) {
        std::printf("%s{\"bench\":\"sampler\",\"name\":\"%s\",\"vocab\":%lld,\"seconds\":%.6g}",
                    separator, setting.name, static_cast<long long>(vocab), middle);
        separator = ",\n ";
      } else {
        std::printf("%-18s %7lld tokens %9.1f us\n", setting.name, static_cast<long long>(vocab),
                    1e6 * middle);
      }
    }
  }
  if (json) std::printf("]\n");
  return 0;
}

}  // namespace
}  // namespace subbit

int main(int argc, char** argv) { return subbit::run(argc, argv); }
