// The device through the Objective-C runtime, misused on purpose: the fake Metal must refuse what a
// Mac's validation layer stops at, or the tests that run over it would prove nothing.
#include "backend/metal/metal_device.h"

#include <functional>

#include "backend/metal/objc.h"
#include "backend/metal/selectors.h"
#include "support/fake_metal/fake_metal.h"
#include "support/test.h"

#if !defined(__APPLE__)  // a Mac aborts, or does as it likes

extern "C" objc_object* MTLCreateSystemDefaultDevice(void);

namespace subbit {
namespace {

using fake_metal::Settings;
using Encode = std::function<void(GpuCommands&, const GpuSlice&)>;

/// What the fake says to one `swiglu` over 256 columns, encoded as `encode` likes.
std::string refusal_under(const Settings& settings, const Encode& encode) {
  fake_metal::reset(settings);
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

std::string refusal(const Encode& encode) { return refusal_under({}, encode); }

std::string misuse_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const fake_metal::Misuse& misuse) {
    return misuse.what();
  }
  return "";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void bind_all(GpuCommands& commands, const GpuSlice& slice) {
  for (int index = 1; index <= 2; ++index) commands.bind(index, slice);
  commands.bind(3, {slice.memory, 2048, 1024});
}

void in_order(GpuCommands& commands, const GpuSlice& slice) {
  bind_all(commands, slice);
  commands.dispatch({1, 1, 1}, {256, 1, 1});
}

TEST(the_fake_device_takes_a_dispatch_that_is_in_order) { EXPECT_EQ(refusal(in_order), ""); }

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

/// An encoder by Metal's own words, without the host's checks.
struct RawEncoder {
  objc::AutoreleasePool pool;
  objc::Owned device{MTLCreateSystemDefaultDevice()};
  objc::Owned queue{objc::selectors().new_command_queue(device.get())};
  objc::Id commands = objc::selectors().command_buffer(queue.get());
  objc::Id encoder = objc::selectors().compute_encoder(commands, 1);
  objc::Owned library;
  objc::Owned pipeline;

  RawEncoder() {
    using objc::selectors;
    const objc::Owned options(selectors().alloc_new(objc_getClass("MTLCompileOptions")));
    selectors().set_language_version(options.get(), 0x30000);
    selectors().set_math_mode(options.get(), 0);
    objc::Id error = nullptr;
    const objc::Id text = selectors().string_with_utf8(objc_getClass("NSString"), "kernels");
    library = objc::Owned(selectors().new_library(device.get(), text, options.get(), &error));
    const objc::Id name = selectors().string_with_utf8(objc_getClass("NSString"), "swiglu");
    const objc::Owned function(selectors().new_function(library.get(), name));
    pipeline = objc::Owned(selectors().new_pipeline(device.get(), function.get(), &error));
  }
};

TEST(the_fake_device_refuses_more_threads_than_a_pipeline_takes) {
  Settings settings;
  settings.max_threads = 64;
  fake_metal::reset(settings);
  const RawEncoder raw;
  objc::selectors().set_pipeline(raw.encoder, raw.pipeline.get());
  EXPECT(has(misuse_of([&] { objc::selectors().dispatch(raw.encoder, {1, 1, 1}, {256, 1, 1}); }),
             "more threads than the pipeline takes"));
}

TEST(the_fake_device_refuses_what_is_used_after_its_last_release) {
  fake_metal::reset();
  RawEncoder raw;
  const objc::Id gone = raw.pipeline.get();
  raw.pipeline = {};
  EXPECT(has(misuse_of([&] { objc::selectors().set_pipeline(raw.encoder, gone); }),
             "MTLComputePipelineState was given after its last release"));
  EXPECT(has(misuse_of([&] { objc::selectors().max_threads(gone); }),
             "maxTotalThreadsPerThreadgroup]: sent to an object after its last release"));
  const int64_t before = fake_metal::counts().over_releases;
  objc::release(gone);
  EXPECT_EQ(fake_metal::counts().over_releases, before + 1);
}

// The planted fault: a host that takes for its own what a method gave to the pool.
TEST(a_host_that_keeps_what_it_does_not_own_is_found_out) {
  for (const char* type : {"MTLComputePipelineState", "MTLBuffer"}) {
    Settings settings;
    settings.before_macos_15 = true;  // no residency set holds the buffer
    settings.autoreleased = type;
    fake_metal::reset(settings);
    const int64_t before = fake_metal::counts().over_releases;
    EXPECT(has(refusal_under(settings, in_order), "after its last release"));
    EXPECT(fake_metal::counts().over_releases > before);
  }
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
