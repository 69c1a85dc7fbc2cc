// The header of a safetensors file without its data: what planning reads, and what can be had of a
// model that has not been downloaded. Private to io/.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/reserved_memory.h"

namespace subbit {

class SafetensorsHeader {
 public:
  /// Reads the header of `path`. Throws kFileError, kCorruptFile.
  explicit SafetensorsHeader(const std::string& path);

  /// As long as the whole file must be: the header's bytes, then bytes that fault when touched.
  std::span<const std::byte> bytes() const { return {memory_.data(), memory_.size()}; }

 private:
  ReservedMemory memory_;
};

}  // namespace subbit
