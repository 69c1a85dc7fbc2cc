// libFuzzer's entry to the json target.
#include <cstdint>

#include "fuzz/json_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  subbit::fuzz::fuzz_json(std::as_bytes(std::span(data, size)));
  return 0;
}
