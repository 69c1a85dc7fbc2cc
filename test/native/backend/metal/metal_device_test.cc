// The device through the Objective-C runtime, misused on purpose: the fake Metal must refuse what a
// Mac's validation layer stops at, or the tests that run over it would prove nothing.
#include "backend/metal/metal_device.h"

#include <functional>

#include "support/fake_metal/fake_metal.h"
#include "support/test.h"

#if !defined(__APPLE__)  // a Mac aborts, or does as it likes

namespace subbit {
namespace {

/// What the fake says to one `swiglu` over 256 columns, encoded as `encode` likes.
std::string refusal(const std::function<void(GpuCommands&, const GpuSlice&)>& encode) {
  fake_metal::reset();
  const auto device = open_metal_device();
  const auto memory = device->allocate(4096);
  GpuCommands& commands = device->begin();
  std::string said;
  try {
    commands.pipeline(device->pipeline("swiglu"));
    const uint32_t args[] = {256, 256, 256, 256};
    commands.bytes(0, std::as_bytes(std::span(args)));
    encode(commands, {memory.get(), 0, 1024});
    commands.run();
  } catch (const fake_metal::Misuse& misuse) {
    said = misuse.what();
  }
  commands.drop();
  return said;
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void bind_all(GpuCommands& commands, const GpuSlice& slice) {
  for (int index = 1; index <= 2; ++index) commands.bind(index, slice);
  commands.bind(3, {slice.memory, 2048, 1024});
}

TEST(the_fake_device_takes_a_dispatch_that_is_in_order) {
  EXPECT_EQ(refusal([](GpuCommands& commands, const GpuSlice& slice) {
              bind_all(commands, slice);
              commands.dispatch({1, 1, 1}, {256, 1, 1});
            }),
            "");
}

TEST(the_fake_device_refuses_a_buffer_that_is_not_set) {
  const std::string said = refusal([](GpuCommands& commands, const GpuSlice& slice) {
    commands.bind(1, slice);
    commands.bind(3, slice);
    commands.dispatch({1, 1, 1}, {256, 1, 1});
  });
  EXPECT(has(said, "is not set"));
}

TEST(the_fake_device_refuses_more_threadgroup_memory_than_there_is_and_an_empty_grid) {
  EXPECT(has(refusal([](GpuCommands& commands, const GpuSlice& slice) {
               bind_all(commands, slice);
               commands.threadgroup_memory(0, 65536);
               commands.dispatch({1, 1, 1}, {256, 1, 1});
             }),
             "32 KiB"));
  EXPECT(has(refusal([](GpuCommands& commands, const GpuSlice& slice) {
               bind_all(commands, slice);
               commands.dispatch({0, 1, 1}, {256, 1, 1});
             }),
             "an empty grid"));
}

TEST(the_fake_device_counts_what_was_not_released) {
  fake_metal::reset();
  auto device = open_metal_device();
  const int64_t before = fake_metal::counts().live_objects;
  EXPECT(before > 0);
  auto memory = device->allocate(4096);
  EXPECT(fake_metal::counts().live_objects > before);
  memory.reset();
  EXPECT_EQ(fake_metal::counts().live_objects, before);
  device.reset();
  EXPECT_EQ(fake_metal::counts().live_objects, 0);
}

}  // namespace
}  // namespace subbit

#endif  // !defined(__APPLE__)
