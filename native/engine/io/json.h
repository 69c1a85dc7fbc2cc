// JSON as the engine needs it: safetensors headers and config.json. Strict (RFC 8259), bounded
// depth, duplicate keys refused, integers kept exact. Any input is hostile.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace subbit {

class Json;
using JsonArray = std::vector<Json>;
/// Members in file order; keys are unique (the parser refuses duplicates).
using JsonObject = std::vector<std::pair<std::string, Json>>;

class Json {
 public:
  using Value =
      std::variant<std::nullptr_t, bool, int64_t, double, std::string, JsonArray, JsonObject>;
  Json() : value_(nullptr) {}
  // Out of line: inlined into a caller, the moves of this variant drown GCC 12 in false warnings.
  Json(const Json&);
  Json(Json&&) noexcept;
  Json& operator=(const Json&);
  Json& operator=(Json&&) noexcept;
  ~Json();
  template <typename T>
  Json(T value) : value_(std::move(value)) {}  // NOLINT: literals read as JSON

  /// Parses one whole document. Throws kCorruptFile naming `where` (a file) and the byte offset,
  /// counted from `first_byte`, where `text` begins in that file. At most 64 levels deep and four
  /// million values long: a value takes 40 bytes here and as few as two in the text.
  static Json parse(std::string_view text, std::string_view where, uint64_t first_byte = 0);
  /// Compact text, always valid: bytes that are no UTF-8 become U+FFFD. Numbers round-trip and keep
  /// their type; a number that is not finite fails a CHECK. Member order is kept.
  std::string dump() const;

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  const bool* if_bool() const { return std::get_if<bool>(&value_); }
  const int64_t* if_int() const { return std::get_if<int64_t>(&value_); }
  const std::string* if_string() const { return std::get_if<std::string>(&value_); }
  const JsonArray* if_array() const { return std::get_if<JsonArray>(&value_); }
  const JsonObject* if_object() const { return std::get_if<JsonObject>(&value_); }
  /// An integer or a real number as double; nothing else.
  bool get_number(double& out) const;
  /// Calls `visitor` with the value as the type it has, one of those of Value.
  template <typename Visitor>
  void visit(const Visitor& visitor) const {
    std::visit(visitor, value_);
  }
  /// The member of an object, or nullptr (also when this is no object).
  const Json* find(std::string_view key) const;

 private:
  Value value_;
};

/// `text` in quotes, escaped and shortened, for an error message: names in files are hostile too.
std::string quote_for_message(std::string_view text);

}  // namespace subbit
