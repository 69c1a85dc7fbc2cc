// A recursive-descent parser for RFC 8259 and a writer. Strict on purpose: two readers that differ
// on a lenient corner (duplicate keys, lone surrogates, big integers) can be made to see different
// models in one file.
#include "io/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <locale.h>
#include <numeric>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

#include "base/check.h"

namespace subbit {
namespace {

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxValues = int64_t{1} << 22;

/// Text to double without the host program's locale, whose decimal point may be a comma.
/// std::from_chars would do, but Apple's library has it for integers only.
double to_double(const std::string& number) {
  static const locale_t kC = newlocale(LC_ALL_MASK, "C", locale_t{});
  return strtod_l(number.c_str(), nullptr, kC);
}

/// Bytes of the UTF-8 sequence that `text` begins with, or 0 if it is none (RFC 3629: no overlong
/// forms, no surrogates, nothing above U+10FFFF). `text` is not empty.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  size_t length = 0;
  unsigned low = 0x80;
  unsigned high = 0xBF;  // range of the second byte
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (text.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

void append_utf8(std::string& out, uint32_t code_point) {
  const auto push = [&](uint32_t bits) { out.push_back(static_cast<char>(bits)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | (code_point >> 6));
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | (code_point >> 12));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | (code_point >> 18));
    push(0x80 | ((code_point >> 12) & 0x3F));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  Parser(std::string_view text, std::string_view where, uint64_t first_byte)
      : text_(text), where_(where), first_byte_(first_byte) {}

  Json parse_document() {
    Json value = parse_value(0);
    skip_whitespace();
    if (position_ != text_.size()) fail("nothing may follow the value", position_);
    return value;
  }

 private:
  [[noreturn]] void fail(std::string_view reason, size_t at) const {
    const std::string offset = std::to_string(first_byte_ + at);
    throw Error(
        ErrorCode::kCorruptFile,
        std::string(where_) + ": invalid JSON at byte " + offset + ": " + std::string(reason),
        {{"file", std::string(where_)}, {"offset", offset}});
  }

  /// The next character, or NUL at the end (NUL itself is valid nowhere outside a string, and
  /// inside one the end is checked first).
  char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }
  bool take(char c) {
    if (position_ >= text_.size() || text_[position_] != c) return false;
    ++position_;
    return true;
  }

  void skip_whitespace() {
    while (position_ < text_.size()) {
      const char c = text_[position_];
      if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
      ++position_;
    }
  }

  Json parse_value(int depth) {
    skip_whitespace();
    if (position_ == text_.size()) fail("a value is missing at the end of the text", position_);
    if (++values_ > kMaxValues) fail("more than 4194304 values", position_);
    switch (text_[position_]) {
      case '{':
        return parse_object(depth + 1);
      case '[':
        return parse_array(depth + 1);
      case '"':
        return Json(parse_string());
      case 't':
        return parse_word("true", Json(true));
      case 'f':
        return parse_word("false", Json(false));
      case 'n':
        return parse_word("null", Json());
      default:
        return parse_number();
    }
  }

  Json parse_word(std::string_view word, Json value) {
    if (text_.substr(position_, word.size()) != word) fail("unknown word", position_);
    position_ += word.size();
    return value;
  }

  Json parse_array(int depth) {
    if (depth > kMaxDepth) fail("more than 64 levels deep", position_);
    ++position_;
    JsonArray items;
    skip_whitespace();
    if (take(']')) return Json(std::move(items));
    while (true) {
      items.push_back(parse_value(depth));
      skip_whitespace();
      if (take(']')) return Json(std::move(items));
      if (!take(',')) fail("a comma or ] is missing", position_);
    }
  }

  Json parse_object(int depth) {
    if (depth > kMaxDepth) fail("more than 64 levels deep", position_);
    ++position_;
    JsonObject members;
    std::vector<size_t> offsets;
    skip_whitespace();
    if (take('}')) return Json(std::move(members));
    while (true) {
      skip_whitespace();
      if (peek() != '"') fail("a member's name is missing", position_);
      offsets.push_back(position_);
      std::string key = parse_string();
      skip_whitespace();
      if (!take(':')) fail("a colon is missing", position_);
      members.emplace_back(std::move(key), parse_value(depth));
      skip_whitespace();
      if (take('}')) break;
      if (!take(',')) fail("a comma or } is missing", position_);
    }
    refuse_duplicates(members, offsets);
    return Json(std::move(members));
  }

  /// By sorting: a header may hold a hundred thousand names, all of them chosen by an enemy of
  /// quadratic loops or of a hash function.
  void refuse_duplicates(const JsonObject& members, const std::vector<size_t>& offsets) const {
    std::vector<size_t> order(members.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const int compared = members[a].first.compare(members[b].first);
      return compared != 0 ? compared < 0 : a < b;
    });
    for (size_t i = 1; i < order.size(); ++i) {
      const std::string& key = members[order[i]].first;
      if (key == members[order[i - 1]].first)
        fail("duplicate key " + quote_for_message(key), offsets[order[i]]);
    }
  }

  std::string parse_string() {
    const size_t start = position_++;
    std::string out;
    while (true) {
      if (position_ >= text_.size()) fail("a string without its end", start);
      const char c = text_[position_];
      if (c == '"') {
        ++position_;
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20)
        fail("a control character inside a string", position_);
      if (c == '\\') {
        parse_escape(out);
        continue;
      }
      const size_t length = utf8_length(text_.substr(position_));
      if (length == 0) fail("invalid UTF-8", position_);
      out.append(text_.substr(position_, length));
      position_ += length;
    }
  }

  void parse_escape(std::string& out) {
    const size_t start = position_++;
    static constexpr std::string_view kLetters = "\"\\/bfnrt";
    static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      append_utf8(out, parse_code_point(start));
      return;
    }
    const size_t letter =
        position_ < text_.size() ? kLetters.find(text_[position_]) : std::string_view::npos;
    if (letter == std::string_view::npos) fail("unknown escape", start);
    out.push_back(kMeanings[letter]);
    ++position_;
  }

  /// After "\u": four hexadecimal digits, or a surrogate pair of two such escapes.
  uint32_t parse_code_point(size_t start) {
    const uint32_t unit = parse_hex4(start);
    if (unit < 0xD800 || unit > 0xDFFF) return unit;
    if (unit >= 0xDC00 || !take('\\') || !take('u')) fail("a lone surrogate", start);
    const uint32_t low = parse_hex4(start);
    if (low < 0xDC00 || low > 0xDFFF) fail("a lone surrogate", start);
    return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
  }

  uint32_t parse_hex4(size_t start) {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++position_) {
      const char c = peek();
      uint32_t digit = 0;
      if (is_digit(c)) {
        digit = static_cast<uint32_t>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        digit = static_cast<uint32_t>(c - 'a' + 10);
      } else if (c >= 'A' && c <= 'F') {
        digit = static_cast<uint32_t>(c - 'A' + 10);
      } else {
        fail("four hexadecimal digits must follow \\u", start);
      }
      value = value * 16 + digit;
    }
    return value;
  }

  Json parse_number() {
    const size_t start = position_;
    take('-');
    if (!is_digit(peek())) fail("not a value", start);
    if (!take('0')) take_digits();
    if (is_digit(peek())) fail("a number with a leading zero", start);
    bool integer = true;
    if (take('.')) {
      integer = false;
      if (!is_digit(peek())) fail("a digit must follow the decimal point", position_);
      take_digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      integer = false;
      ++position_;
      if (!take('+')) take('-');
      if (!is_digit(peek())) fail("a digit must follow the exponent's mark", position_);
      take_digits();
    }
    const std::string_view number = text_.substr(start, position_ - start);
    if (integer) {
      int64_t exact = 0;
      const auto end = number.data() + number.size();
      if (std::from_chars(number.data(), end, exact).ec == std::errc()) return Json(exact);
    }
    const double real = to_double(std::string(number));
    if (!std::isfinite(real)) fail("a number too large for a double", start);
    return Json(real);
  }

  void take_digits() {
    while (is_digit(peek())) ++position_;
  }

  std::string_view text_;
  std::string_view where_;
  uint64_t first_byte_;
  size_t position_ = 0;
  int64_t values_ = 0;
};

void append_string(std::string& out, std::string_view text) {
  out.push_back('"');
  while (!text.empty()) {
    const char c = text.front();
    size_t length = utf8_length(text);
    if (length == 0) {
      out += "\\ufffd";
      length = 1;
    } else if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out.append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  out.push_back('"');
}

/// The fewest of 15 to 17 digits that read back as the same double, and always a sign that this is
/// no integer.
void append_double(std::string& out, double value) {
  CHECK(std::isfinite(value));
  std::string text;
  for (int digits = 15; digits <= 17; ++digits) {
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "%.*g", digits, value);
    text.clear();
    for (const char* c = buffer; *c != '\0'; ++c) {
      // printf writes the host program's decimal point, which may be of several bytes.
      const bool known = is_digit(*c) || *c == '-' || *c == '+' || *c == 'e';
      if (known) text.push_back(*c);
      if (!known && text.back() != '.') text.push_back('.');
    }
    if (to_double(text) == value) break;
  }
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  out += text;
}

struct Dumper {
  std::string& out;

  void operator()(std::nullptr_t) const { out += "null"; }
  void operator()(bool value) const { out += value ? "true" : "false"; }
  void operator()(int64_t value) const { out += std::to_string(value); }
  void operator()(double value) const { append_double(out, value); }
  void operator()(const std::string& value) const { append_string(out, value); }
  void operator()(const JsonArray& items) const {
    out.push_back('[');
    for (size_t i = 0; i < items.size(); ++i) {
      if (i != 0) out.push_back(',');
      items[i].visit(*this);
    }
    out.push_back(']');
  }
  void operator()(const JsonObject& members) const {
    out.push_back('{');
    for (size_t i = 0; i < members.size(); ++i) {
      if (i != 0) out.push_back(',');
      append_string(out, members[i].first);
      out.push_back(':');
      members[i].second.visit(*this);
    }
    out.push_back('}');
  }
};

}  // namespace

Json::Json(const Json&) = default;
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(const Json&) = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

Json Json::parse(std::string_view text, std::string_view where, uint64_t first_byte) {
  return Parser(text, where, first_byte).parse_document();
}

std::string Json::dump() const {
  std::string out;
  visit(Dumper{out});
  return out;
}

bool Json::get_number(double& out) const {
  if (const int64_t* integer = std::get_if<int64_t>(&value_)) {
    out = static_cast<double>(*integer);
    return true;
  }
  if (const double* real = std::get_if<double>(&value_)) {
    out = *real;
    return true;
  }
  return false;
}

const Json* Json::find(std::string_view key) const {
  const JsonObject* members = if_object();
  if (members == nullptr) return nullptr;
  for (const auto& [name, value] : *members) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string quote_for_message(std::string_view text) {
  constexpr size_t kMaxBytes = 120;
  std::string out;
  append_string(out, text.substr(0, kMaxBytes));
  if (text.size() > kMaxBytes) out += "... (" + std::to_string(text.size()) + " bytes)";
  return out;
}

}  // namespace subbit
