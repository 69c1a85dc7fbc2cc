// The one text that Apple's compiler gets to see.
#include "backend/metal/shader_library.h"

#include "support/test.h"

namespace subbit {
namespace {

TEST(includes_are_replaced_once_relative_to_the_file_that_has_them) {
  const ShaderFile files[] = {
      {"a.metal", "#include \"device/x.h\"\n#include \"y.h\"\nA\n"},
      {"b.metal", "  #include \"y.h\"\nB\n"},
      {"device/x.h", "#pragma once\n#include \"../y.h\"\nX\n"},
      {"y.h", "#pragma once\n#include <metal_stdlib>\nY"},
  };
  EXPECT_EQ(shader_library(files), "#include <metal_stdlib>\nY\nX\nA\nB\n");
}

TEST(an_include_of_a_file_that_is_not_carried_is_our_mistake_by_name) {
  const ShaderFile files[] = {{"a.metal", "#include \"gone.h\"\n"}};
  EXPECT_ERROR(ErrorCode::kInternal, "gone.h", shader_library(files));
}

TEST(the_addon_carries_every_shader_and_they_make_one_ascii_text) {
  const std::string text = shader_library(shader_files());
  EXPECT(text.find("#include \"") == std::string::npos);
  EXPECT(text.find("#pragma once") == std::string::npos);
  EXPECT(text.find("sign_gemv") != std::string::npos);
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 128) continue;
    EXPECT(false);
    break;
  }
}

}  // namespace
}  // namespace subbit
