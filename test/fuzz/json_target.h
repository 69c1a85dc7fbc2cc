// Any text is either refused or means the same after being written and read again.
#pragma once

#include <string>
#include <string_view>

#include "fuzz/target.h"
#include "io/json.h"

namespace subbit::fuzz {

inline bool fuzz_json(std::span<const std::byte> input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  Json json;
  if (!accepts({ErrorCode::kCorruptFile}, [&] { json = Json::parse(text, "fuzz"); })) return false;
  const std::string written = json.dump();
  require(Json::parse(written, "written").dump() == written, "dump() does not read back");
  return true;
}

}  // namespace subbit::fuzz
