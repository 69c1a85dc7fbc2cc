// The driver of a fuzz target on a machine without libFuzzer.
// Usage: fuzz_<name> <corpus directory> [mutations, default 100000].
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "fuzz/replay.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s <corpus directory> [mutations]\n", argv[0]);
    return EXIT_FAILURE;
  }
  const int64_t mutations = argc > 2 ? std::atoll(argv[2]) : 100000;
  const subbit::fuzz::Target target = [](std::span<const std::byte> input) {
    return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size()) ==
           0;
  };
  try {
    const int64_t runs = subbit::fuzz::replay(target, argv[1], mutations).runs;
    std::printf("%lld inputs, nothing found\n", static_cast<long long>(runs));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
