// The safetensors reader against headers an enemy or a broken download would give it.
#include "io/safetensors.h"

#include <string>
#include <utility>
#include <vector>

#include "fuzz/safetensors_target.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

using test::safetensors_bytes;

std::vector<TensorView> parse(const std::string& bytes) {
  return parse_safetensors(test::as_bytes(bytes), "m.safetensors", nullptr);
}

/// `header` over `data_bytes` of data must be refused with `reason`.
void refuse(std::string_view header, size_t data_bytes, const std::string& reason) {
  const std::string bytes = safetensors_bytes(header, std::string(data_bytes, 'd'));
  EXPECT_ERROR(ErrorCode::kCorruptFile, reason, parse(bytes));
}

std::string with_length_field(uint64_t length, size_t rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + std::string(rest, ' ');
}

/// Three tensors of three dtypes, one of them empty, and metadata.
std::string small_file() {
  return safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,2],"data_offsets":[8,16]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("none":{"dtype":"I64","shape":[3,0],"data_offsets":[16,16]}} )",
      "0123456789abcdef");
}

TEST(safetensors_views_each_tensor_at_its_offsets_in_file_order) {
  const std::string bytes = small_file();
  std::vector<std::pair<std::string, std::string>> metadata;
  const auto tensors = parse_safetensors(test::as_bytes(bytes), "m", &metadata);
  EXPECT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[1].name, "b");
  EXPECT_EQ(tensors[2].name, "none");
  EXPECT(tensors[1].dtype == DType::kF16);
  EXPECT(tensors[1].shape == (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(tensors[1].count(), 4);
  EXPECT_EQ(tensors[2].count(), 0);
  EXPECT_EQ(static_cast<char>(tensors[1].bytes[0]), '8');
  EXPECT_EQ(metadata.size(), 1u);
  EXPECT_EQ(metadata[0].first, "format");
  EXPECT_EQ(metadata[0].second, "pt");
}

TEST(safetensors_without_tensors_or_with_a_scalar_is_a_file_too) {
  EXPECT(parse(safetensors_bytes("{}", "")).empty());
  const std::string scalar =
      safetensors_bytes(R"({"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}})", "12345678");
  EXPECT_EQ(parse(scalar)[0].count(), 1);
}

TEST(safetensors_truncated_at_any_byte_is_refused_by_name) {
  const std::string whole = small_file();
  const std::string path = test::temporary_directory() + "/cut.safetensors";
  EXPECT_EQ(parse(whole).size(), 3u);
  for (size_t length = 0; length < whole.size(); ++length) {
    // Once as a file, once as a heap block of exactly that size, which AddressSanitizer guards.
    test::write_file(path, std::string_view(whole).substr(0, length));
    EXPECT_ERROR(ErrorCode::kCorruptFile, path, SafetensorsFile{path});
    const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<int64_t>(length));
    const std::string_view view(exact.data(), exact.size());
    EXPECT_ERROR(ErrorCode::kCorruptFile,
                 "m: ", parse_safetensors(test::as_bytes(view), "m", nullptr));
  }
}

TEST(safetensors_with_one_byte_too_many_is_refused) {
  EXPECT_ERROR(ErrorCode::kCorruptFile, "data that belongs to no tensor: expected 16",
               parse(small_file() + "x"));
}

TEST(safetensors_with_any_header_byte_changed_is_refused_or_still_consistent) {
  const std::string whole = small_file();
  const size_t header_end = whole.size() - 16;
  for (size_t i = 0; i < header_end; ++i) {
    for (unsigned flip = 1; flip < 256; ++flip) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(static_cast<unsigned char>(bytes[i]) ^ flip);
      fuzz::fuzz_safetensors(test::as_bytes(bytes));  // throws on an accepted inconsistency
    }
  }
}

TEST(safetensors_header_length_is_checked_before_it_is_used) {
  EXPECT_ERROR(ErrorCode::kCorruptFile, "too short", parse(""));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "expected 8 bytes or more, actual 7",
               parse(std::string(7, '\0')));
  for (const uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7,
                                (uint64_t{1} << 63) - 1, uint64_t{100'000'001}}) {
    EXPECT_ERROR(ErrorCode::kCorruptFile, "actual " + std::to_string(length),
                 parse(with_length_field(length, 100)));
  }
  EXPECT_ERROR(ErrorCode::kCorruptFile, "ends inside its header: expected 101 bytes, actual 100",
               parse(with_length_field(101, 100)));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "does not begin with {",
               parse(with_length_field(100, 100)));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "does not begin with {", parse(with_length_field(0, 100)));
  refuse(" {}", 0, "does not begin with {");
  refuse("[]", 0, "does not begin with {");
}

TEST(safetensors_header_json_error_counts_bytes_from_the_start_of_the_file) {
  refuse(R"({"a" 1})", 0, "invalid JSON at byte 13");
  refuse("{}x", 0, "invalid JSON at byte 10: nothing may follow");
}

TEST(safetensors_entry_fields_are_each_checked) {
  refuse(R"({"w":1})", 0, "tensor \"w\": its entry is no object");
  refuse(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4, "no dtype");
  refuse(R"({"w":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", 4, "no dtype");
  refuse(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4, "no shape");
  refuse(R"({"w":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "no shape");
  refuse(R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "actual \"-1\"");
  refuse(R"({"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "actual \"1.0\"");
  refuse(R"({"w":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "a shape holds");
  refuse(R"({"w":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})", 4,
         "a shape holds");
  refuse(R"({"w":{"dtype":"F32","shape":[1]}})", 4, "data_offsets are not two");
  refuse(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "data_offsets are not two");
  refuse(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "not two");
  refuse(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 4, "actual [-4,0]");
  refuse(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "actual [4,0]");
  refuse(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}})", 4, "0 <= begin <= end");
  refuse(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"bits":3}})", 4,
         "unknown field \"bits\"");
}

TEST(safetensors_unknown_dtype_is_unsupported_not_corrupt) {
  for (const char* dtype : {"F8_E4M3", "BOOL", "f32", "", "C64"}) {
    const std::string header =
        R"({"w":{"dtype":")" + std::string(dtype) + R"(","shape":[4],"data_offsets":[0,4]}})";
    EXPECT_ERROR(ErrorCode::kUnsupportedFormat, "actual \"" + std::string(dtype) + "\"",
                 parse(safetensors_bytes(header, "data")));
  }
}

TEST(safetensors_shape_whose_product_overflows_is_refused) {
  const std::pair<const char*, const char*> cases[] = {
      {"F32", "[4611686018427387904]"},   // 2^62 elements of 4 bytes: 2^64
      {"U8", "[4294967296,4294967296]"},  // 2^64: zero, if it wrapped
      {"U8", "[9223372036854775807,3]"},   {"F32", "[3037000500,3037000500]"},
      {"U8", "[4611686018427387904,4,0]"},  // empty, but its prefix overflows
      {"U8", "[0,4611686018427387904,4]"}};
  for (const auto& [dtype, shape] : cases) {
    const std::string header = std::string(R"({"w":{"dtype":")") + dtype + R"(","shape":)" + shape +
                               R"(,"data_offsets":[0,0]}})";
    refuse(header, 0, "the product of its shape overflows");
  }
}

TEST(safetensors_length_must_be_what_shape_and_dtype_ask) {
  refuse(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
         "expected 8 bytes, actual 4");
  refuse(R"({"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,8]}})", 8,
         "expected 4 bytes, actual 8");
  refuse(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,4]}})", 4,
         "expected 0 bytes, actual 4");
}

TEST(safetensors_tensors_past_the_end_of_the_file_are_refused) {
  refuse(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7,
         "its data ends past the end of the file: expected 8 bytes of data, actual 7");
  refuse(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,)"
         R"(9223372036854775807]}})",
         1, "past the end of the file");
}

TEST(safetensors_tensors_may_not_overlap_nor_leave_holes) {
  const auto two = [](int a0, int a1, int b0, int b1) {
    const auto entry = [](const char* name, int begin, int end) {
      return '"' + std::string(name) + R"(":{"dtype":"U8","shape":[)" +
             std::to_string(end - begin) + R"(],"data_offsets":[)" + std::to_string(begin) + "," +
             std::to_string(end) + "]}";
    };
    return "{" + entry("a", a0, a1) + "," + entry("b", b0, b1) + "}";
  };
  EXPECT_EQ(parse(safetensors_bytes(two(4, 8, 0, 4), "datadata")).size(), 2u);
  refuse(two(0, 4, 3, 8), 8, "tensor \"b\": overlaps the tensor before it");
  refuse(two(0, 8, 2, 4), 8, "tensor \"b\": overlaps the tensor before it");
  refuse(two(0, 4, 0, 4), 4, "tensor \"b\": overlaps the tensor before it");
  refuse(two(0, 4, 5, 8), 8, "tensor \"b\": a hole lies before its data");
  refuse(two(1, 4, 4, 8), 8, "tensor \"a\": a hole lies before its data");
  refuse(two(0, 4, 4, 7), 8, "data that belongs to no tensor: expected 7");
  refuse(two(0, 8, 4, 4), 8, "tensor \"b\": overlaps");  // empty, yet inside another's data
  refuse("{}", 1, "data that belongs to no tensor");
}

TEST(safetensors_names_may_not_repeat) {
  refuse(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
         R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
         2, "duplicate key \"w\"");
  refuse(R"({"__metadata__":{},"__metadata__":{}})", 0, "duplicate key");
  refuse(R"({"w":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,1]}})", 1,
         "duplicate key \"dtype\"");
}

TEST(safetensors_metadata_holds_strings_only) {
  refuse(R"({"__metadata__":[]})", 0, "__metadata__ is no object");
  refuse(R"({"__metadata__":{"a":1}})", 0, "__metadata__ \"a\" is no string");
  refuse(R"({"__metadata__":{"a":null}})", 0, "__metadata__ \"a\" is no string");
}

TEST(safetensors_error_message_stays_short_whatever_the_names_are) {
  const std::string name(1000000, 'n');
  const std::string bytes = safetensors_bytes("{\"" + name + "\":1}", "");
  try {
    parse(bytes);
    EXPECT(false);
  } catch (const Error& error) {
    EXPECT(std::string(error.what()).size() < 500);
    EXPECT(std::string(error.what()).find("1000000 bytes") != std::string::npos);
  }
}

TEST(safetensors_real_models_open_and_tile_their_files) {
  for (const char* model : {"stories260K", "stories15M", "TinyStories-656K"}) {
    const std::string path =
        test::shared_data("models/" + std::string(model) + "/model.safetensors");
    const SafetensorsFile file(path);
    const std::string bytes = test::read_file(path);
    EXPECT_EQ(file.file_bytes(), bytes.size());
    const auto tensors = parse(bytes);
    EXPECT_EQ(tensors.size(), file.tensors().size());
    fuzz::require_consistent(tensors, test::as_bytes(bytes));
    EXPECT(file.find("model.norm.weight") != nullptr);
    EXPECT(file.find("model.norm") == nullptr);
  }
}

}  // namespace
}  // namespace subbit
