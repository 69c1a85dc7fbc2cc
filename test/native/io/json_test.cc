// JSON as config files and headers use it, and as an enemy would.
#include "io/json.h"

#include <clocale>
#include <cstdint>
#include <limits>
#include <string>

#include "support/test.h"

namespace subbit {
namespace {

Json parse(std::string_view text) { return Json::parse(text, "test.json"); }

void refuse(std::string_view text, const std::string& reason) {
  EXPECT_ERROR(ErrorCode::kCorruptFile, reason, parse(text));
}

std::string nested(int levels) {
  return std::string(static_cast<size_t>(levels), '[') +
         std::string(static_cast<size_t>(levels), ']');
}

TEST(json_reads_every_kind_of_value) {
  const Json json = parse(R"( {"a": [1, -2.5e3, true, false, null, "x"], "b": {}, "c": []} )");
  const JsonArray* items = json.find("a")->if_array();
  EXPECT_EQ(items->size(), 6u);
  EXPECT_EQ(*(*items)[0].if_int(), 1);
  double number = 0;
  EXPECT((*items)[1].get_number(number));
  EXPECT_EQ(number, -2500.0);
  EXPECT((*items)[1].if_int() == nullptr);
  EXPECT((*items)[0].get_number(number));
  EXPECT_EQ(number, 1.0);
  EXPECT(*(*items)[2].if_bool());
  EXPECT(!*(*items)[3].if_bool());
  EXPECT((*items)[4].is_null());
  EXPECT_EQ(*(*items)[5].if_string(), "x");
  EXPECT(!(*items)[5].get_number(number));
  EXPECT(json.find("b")->if_object()->empty());
  EXPECT(json.find("c")->if_array()->empty());
  EXPECT(json.find("d") == nullptr);
  EXPECT(json.find("a")->find("a") == nullptr);
}

TEST(json_keeps_integers_exact_and_only_then_turns_to_doubles) {
  EXPECT_EQ(*parse("9223372036854775807").if_int(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(*parse("-9223372036854775808").if_int(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*parse("9007199254740993").if_int(), 9007199254740993);  // 2^53 + 1
  const Json large = parse("9223372036854775808");
  EXPECT(large.if_int() == nullptr);
  double number = 0;
  EXPECT(large.get_number(number));
  EXPECT_EQ(number, 0x1p63);
  EXPECT(parse("1.0").if_int() == nullptr);
  EXPECT(parse("1e2").if_int() == nullptr);
  EXPECT(parse("1e-400").get_number(number));
  EXPECT_EQ(number, 0.0);
}

TEST(json_refuses_what_is_not_json) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "byte 0: a value is missing"},
      {"   ", "byte 3: a value is missing"},
      {"{} {}", "byte 3: nothing may follow"},
      {"1 2", "byte 2: nothing may follow"},
      {"01", "byte 0: a number with a leading zero"},
      {"-01", "byte 0: a number with a leading zero"},
      {"+1", "byte 0: not a value"},
      {"-", "byte 0: not a value"},
      {".5", "byte 0: not a value"},
      {"1.", "byte 2: a digit must follow"},
      {"1.e1", "byte 2: a digit must follow"},
      {"1e", "byte 2: a digit must follow"},
      {"1e+", "byte 3: a digit must follow"},
      {"0x10", "byte 1: nothing may follow"},
      {"1e400", "byte 0: a number too large"},
      {"-1e400", "byte 0: a number too large"},
      {"NaN", "byte 0: not a value"},
      {"Infinity", "byte 0: not a value"},
      {"nul", "byte 0: unknown word"},
      {"True", "byte 0: not a value"},
      {"truest", "byte 4: nothing may follow"},
      {"[1,]", "byte 3: not a value"},
      {"[,1]", "byte 1: not a value"},
      {"[1 2]", "byte 3: a comma or ] is missing"},
      {"[1", "byte 2: a comma or ] is missing"},
      {"{\"a\":1,}", "byte 7: a member's name is missing"},
      {"{a:1}", "byte 1: a member's name is missing"},
      {"{1:1}", "byte 1: a member's name is missing"},
      {"{\"a\" 1}", "byte 5: a colon is missing"},
      {"{\"a\":}", "byte 5: not a value"},
      {"{\"a\":1", "byte 6: a comma or } is missing"},
      {"{\"a\"", "byte 4: a colon is missing"},
      {"'a'", "byte 0: not a value"},
      {"\"a", "byte 0: a string without its end"},
      {"\"a\\", "byte 2: unknown escape"},
      {"\"\\x\"", "byte 1: unknown escape"},
      {"\"\t\"", "byte 1: a control character"},
      {"/* no */ 1", "byte 0: not a value"},
      {"\xEF\xBB\xBF{}", "byte 0: not a value"},  // a byte order mark
      {"\v1", "byte 0: not a value"},
  };
  for (const auto& [text, reason] : cases) refuse(text, reason);
  refuse(std::string_view("1\0", 2), "byte 1: nothing may follow");
  refuse(std::string_view("[1\0]", 4), "byte 2: a comma");
  refuse(std::string_view("\"\0\"", 3), "byte 1: a control character");
  refuse(std::string_view("\0", 1), "byte 0: not a value");
}

TEST(json_error_names_the_file_and_the_byte_in_the_file) {
  try {
    Json::parse("[1,?]", "model.safetensors", 8);
    EXPECT(false);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "model.safetensors: invalid JSON at byte 11: not a value");
    EXPECT_EQ(error.details()[0].second, "model.safetensors");
    EXPECT_EQ(error.details()[1].second, "11");
  }
}

TEST(json_refuses_a_key_given_twice_wherever_it_hides) {
  refuse(R"({"a":1,"a":1})", "byte 7: duplicate key \"a\"");
  refuse(R"({"a":1,"b":2,"\u0061":3})", "byte 13: duplicate key \"a\"");
  refuse(R"([{"x":{"a":1,"a":1}}])", "duplicate key");
  EXPECT_EQ(parse(R"({"a":{"a":1},"A":1})").if_object()->size(), 2u);
}

TEST(json_reads_escapes_and_surrogate_pairs) {
  EXPECT_EQ(*parse(R"("\"\\\/\b\f\n\r\t")").if_string(), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(*parse(R"("\u0041\u00e9\u20AC\uD83D\uDE00")").if_string(), "A\u00e9\u20ac\U0001F600");
  EXPECT_EQ(*parse(R"("\u0000")").if_string(), std::string(1, '\0'));
  EXPECT_EQ(*parse(R"("\uDBFF\uDFFF")").if_string(), "\xF4\x8F\xBF\xBF");
  for (const char* text : {R"("\uD83D")", R"("\uD83Dx")", R"("\uDE00")", R"("\uDE00\uD83D")",
                           R"("\uD83D\u0041")", R"("\uD83D\n")", R"("\uD83D\uD83D")"}) {
    refuse(text, "byte 1: a lone surrogate");
  }
  for (const char* text : {R"("\u")", R"("\u12")", R"("\u12g4")", R"("\u 123")", R"("\u-123")"})
    refuse(text, "byte 1: four hexadecimal digits");
  refuse("\"\\u12", "four hexadecimal digits");
  refuse("\"\\uD83D\\u", "four hexadecimal digits");
}

TEST(json_takes_valid_utf8_and_refuses_the_rest) {
  for (const char* text :
       {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(*parse("\"" + std::string(text) + "\"").if_string(), text);
  }
  for (const char* text :
       {"\x80", "\xBF", "\xC0\xAF", "\xC1\xBF", "\xC2", "\xC2\x41", "\xE0\x80\x80", "\xE0\x9F\xBF",
        "\xED\xA0\x80", "\xED\xBF\xBF", "\xE2\x82", "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xF0\x9F\x98", "\xFE", "\xFF"}) {
    refuse("\"" + std::string(text) + "\"", "byte 1: invalid UTF-8");
    refuse("\"" + std::string(text), "byte 1: invalid UTF-8");
  }
}

TEST(json_nested_without_end_does_not_overflow_the_stack) {
  EXPECT(parse(nested(64)).if_array() != nullptr);
  refuse(nested(65), "byte 64: more than 64 levels");
  refuse(std::string(1000000, '['), "more than 64 levels");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  refuse(objects, "more than 64 levels");
}

TEST(json_with_millions_of_values_is_refused_before_memory_is) {
  std::string text = "[0";
  for (int i = 0; i < (1 << 22); ++i) text += ",0";
  refuse(text + "]", "more than 4194304 values");
}

TEST(json_dump_reads_back_as_the_same_value_of_the_same_type) {
  const char* texts[] = {"null",
                         "true",
                         "-9223372036854775808",
                         "0.1",
                         "1.0",
                         "-0.0",
                         "1e+300",
                         "5e-324",
                         "1.7976931348623157e+308",
                         "0.30000000000000004",
                         R"("\u0000\u001f\u007f\"\\")",
                         R"({"z":1,"a":[1,2.5,{"k":null}],"":"\u00e9"})",
                         "[]",
                         "{}"};
  for (const char* text : texts) {
    const std::string once = parse(text).dump();
    EXPECT_EQ(parse(once).dump(), once);
  }
  EXPECT_EQ(parse("1.0").dump(), "1.0");
  EXPECT_EQ(parse("-0.0").dump(), "-0.0");
  EXPECT_EQ(parse("0.1").dump(), "0.1");
  EXPECT_EQ(parse("1e-05").dump(), "1e-05");
  EXPECT_EQ(parse(R"({"b":1,"a":"\n"})").dump(), R"({"b":1,"a":"\u000a"})");
  EXPECT_EQ(Json(std::string("a\xFF")).dump(), R"("a\ufffd")");
  EXPECT_ERROR(ErrorCode::kInternal, "isfinite",
               Json(std::numeric_limits<double>::infinity()).dump());
}

TEST(json_numbers_do_not_depend_on_the_locale_of_the_program) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  bool found = false;
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"})
    found = found || std::setlocale(LC_ALL, name) != nullptr;
  double number = 0;
  EXPECT(parse("2.5").get_number(number));
  const std::string text = Json(2.5).dump();
  std::setlocale(LC_ALL, before.c_str());
  EXPECT_EQ(number, 2.5);
  EXPECT_EQ(text, "2.5");
  if (!found) test::skip("no locale with a decimal comma on this machine");
}

TEST(quoted_names_in_messages_are_short_and_printable) {
  EXPECT_EQ(quote_for_message("a\nb"), R"("a\u000ab")");
  const std::string quoted = quote_for_message(std::string(1000000, 'x'));
  EXPECT(quoted.size() < 200);
  EXPECT(quoted.find("1000000 bytes") != std::string::npos);
}

}  // namespace
}  // namespace subbit
