// libFuzzer's entry to the packed target.
#include <cstdint>

#include "fuzz/packed_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  subbit::fuzz::fuzz_packed(std::as_bytes(std::span(data, size)));
  return 0;
}
