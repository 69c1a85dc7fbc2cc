// libFuzzer's entry to the config target.
#include <cstdint>

#include "fuzz/config_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  subbit::fuzz::fuzz_config(std::as_bytes(std::span(data, size)));
  return 0;
}
