// Arguments of read_bandwidth: what memory gives to a GPU that does nothing else.
#pragma once

#include "qvec.h"

namespace subbit {
namespace shader {

struct ReadBandwidthArgs {
  uint32_t units;  // of 16 bytes
};

enum : uint32_t {
  kReadThreads = 256,
  kReadSimdgroups = 8,
  kReadUnits = 64,  // of a thread, kReadThreads apart
};

inline uint32_t read_groups(uint32_t units) {
  return (units + kReadThreads * kReadUnits - 1) / (kReadThreads * kReadUnits);
}

}  // namespace shader
}  // namespace subbit
