// libFuzzer's entry to the safetensors target.
#include <cstdint>

#include "fuzz/safetensors_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  subbit::fuzz::fuzz_safetensors(std::as_bytes(std::span(data, size)));
  return 0;
}
