// Kernel signatures as metal_on_cpu reads them: what each buffer index is, and the faults in a
// signature that Apple's compiler refuses and clang's address-space build does not see.
#include "metal/linear.h"
#include "support/metal_on_cpu/kernel_registry.h"
#include "support/test.h"

namespace subbit {
namespace {

using metal_on_cpu::Argument;
using metal_on_cpu::MetalError;
using metal_on_cpu::parse_parameters;

bool refused(const char* parameters) {
  try {
    parse_parameters("k", parameters);
  } catch (const MetalError&) {
    return true;
  }
  return false;
}

}  // namespace

TEST(metal_signature_tells_what_each_index_is) {
  const auto arguments = parse_parameters(
      "k",
      "(constant Args& args [[buffer(0)]], device const uint4* words [[buffer(2)]], "
      "device float* y [[buffer(3)]], threadgroup int* sums THREADGROUP(0), THREAD)");
  EXPECT_EQ(arguments.size(), size_t{8});
  EXPECT(arguments[0].kind == Argument::Kind::kConstant && arguments[0].type == "Args");
  EXPECT(arguments[1].kind == Argument::Kind::kDeviceRead && arguments[1].index == 2);
  EXPECT(arguments[2].kind == Argument::Kind::kDeviceWrite && arguments[2].name == "y");
  EXPECT(arguments[3].kind == Argument::Kind::kThreadgroup);
  EXPECT_EQ(arguments[4].attribute, std::string("threadgroup_position_in_grid"));
  EXPECT_EQ(arguments[7].attribute, std::string("simdgroup_index_in_threadgroup"));
}

TEST(metal_signature_refuses_pointers_without_address_space) {
  EXPECT(refused("(const uint4* words [[buffer(0)]], THREAD)"));
  EXPECT(refused("(thread float* y [[buffer(0)]], THREAD)"));
  EXPECT(refused("(device float* y [[threadgroup(0)]], THREAD)"));
  EXPECT(refused("(device float* y, THREAD)"));
  EXPECT(refused("(device float* y [[buffer(1)]], device float* z [[buffer(1)]], THREAD)"));
  EXPECT(!refused("(device float* y [[buffer(1)]], device float* z [[buffer(2)]], THREAD)"));
}

TEST(metal_gemv_threadgroups_cover_every_row) {
  for (const uint32_t chunks : {1u, 2u, 9u, 50u, 74u, 128u, 344u}) {
    const uint32_t log2 = shader::gemv_lanes_log2(chunks);
    EXPECT(log2 >= 3 && log2 <= 5);
    for (const uint32_t rows : {1u, 4u, 5u, 33u, 288u, 1600u}) {
      const uint32_t groups = shader::gemv_groups(rows, shader::kGemvThreads, log2);
      const uint32_t each = 8 * shader::gemv_pairs(shader::kGemvThreads, log2);
      EXPECT(each % 32 == 0 && groups * each >= rows && (groups - 1) * each < rows + 4);
    }
  }
  // formats.md: 1600 columns fill 89 % of 8 lanes, 4096 all of 32.
  EXPECT_EQ(shader::gemv_lanes_log2(50), 3u);
  EXPECT_EQ(shader::gemv_lanes_log2(128), 5u);
}

}  // namespace subbit
