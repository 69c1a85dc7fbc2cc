// Reads fields of config.json with their ranges checked: what every architecture's config needs.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace subbit {

/// The inclusive range an integer of a config may lie in.
struct IntRange {
  int64_t least = 1;
  int64_t most = std::numeric_limits<int32_t>::max();
};

class ConfigReader {
 public:
  /// Throws kCorruptFile unless `config` is an object.
  ConfigReader(const Json& config, std::string_view where);

  /// Each throws kCorruptFile naming the field; a field that is null counts as absent.
  int64_t integer(std::string_view field, IntRange range) const;
  int64_t integer_or(std::string_view field, IntRange range, int64_t absent) const;
  /// A positive number, neither so large nor so small that a quotient of two could overflow.
  double positive(std::string_view field) const;
  double positive_or(std::string_view field, double absent) const;
  bool boolean_or(std::string_view field, bool absent) const;
  std::string string_or(std::string_view field, std::string_view absent) const;
  /// One token id or a list of them; empty when absent.
  std::vector<int32_t> token_ids(std::string_view field) const;
  /// Null when absent or null.
  const Json* find(std::string_view field) const;
  const std::string& where() const { return where_; }

  [[noreturn]] void corrupt(std::string_view field, const std::string& expected,
                            const Json* actual) const;
  [[noreturn]] void unsupported(std::string_view field, const std::string& expected,
                                const std::string& actual) const;

 private:
  const Json& config_;
  std::string where_;
};

}  // namespace subbit
