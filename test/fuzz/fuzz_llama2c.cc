// libFuzzer's entry to the llama2c target.
#include <cstdint>

#include "fuzz/llama2c_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  subbit::fuzz::fuzz_llama2c(std::as_bytes(std::span(data, size)));
  return 0;
}
