// The classes of Metal, as far as backend/metal uses them. Each method does what Apple's does and
// no more; what a validation layer would stop at is a Misuse.
#if !defined(__APPLE__)

#include "support/fake_metal/fake_metal.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "backend/metal/selectors.h"
#include "support/fake_metal/objc_runtime.h"
#include "support/metal_on_cpu/metal_on_cpu.h"
#include "support/test.h"

namespace subbit::fake_metal {
namespace {

using objc::Integer;
using objc::Size;
using objc::UInteger;

Settings settings;
Counts counted;
/// Models of two threads share the device's counters and metal_on_cpu.
std::recursive_mutex device_mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

// ---- Foundation ---------------------------------------------------------------------------------

struct String final : Object {
  explicit String(std::string value) : Object(class_named("NSString")), text(std::move(value)) {}
  std::string text;
};

Id string_with_utf8(Id, Selector, const char* text) { return autorelease(new String(text)); }
const char* utf8_string(Id self, Selector) { return as<String>(self).text.c_str(); }

struct ErrorObject final : Object {
  ErrorObject(long number, std::string description)
      : Object(class_named("NSError")), code(number), text(std::move(description)) {}
  long code;
  std::string text;
};

Id localized_description(Id self, Selector) {
  return autorelease(new String(as<ErrorObject>(self).text));
}
Integer error_code(Id self, Selector) { return as<ErrorObject>(self).code; }

struct ProcessInfo final : Object {
  ProcessInfo() : Object(class_named("NSProcessInfo")) {}
};
Id process_info(Id, Selector) { return autorelease(new ProcessInfo()); }
/// A system with a fault is another system: verdicts about the two are kept apart.
Id system_version(Id, Selector) {
  const std::string& broken = settings.broken_kernel;
  const std::string fault = broken.empty() ? "" : ", broken " + broken;
  return autorelease(new String("Version 0 (Build Fake" + fault + ")"));
}

// ---- buffers ------------------------------------------------------------------------------------

struct Buffer final : Object {
  Buffer(std::byte* data, uint64_t length)
      : Object(class_named("MTLBuffer")), begin(data), bytes(length) {}
  ~Buffer() override {
    const Lock lock(device_mutex);
    if (!owned.empty()) counted.allocated_bytes -= bytes;
  }
  std::vector<std::byte> owned;
  std::byte* begin;
  uint64_t bytes;
};

void* contents(Id self, Selector) { return as<Buffer>(self).begin; }

// ---- pipelines ----------------------------------------------------------------------------------

struct CompileOptions final : Object {
  CompileOptions() : Object(class_named("MTLCompileOptions")) {}
  UInteger version = 0;
  bool safe_math = false;
};
Id new_options(Id, Selector) { return id_of(new CompileOptions()); }
void set_language_version(Id self, Selector, UInteger version) {
  as<CompileOptions>(self).version = version;
}
void set_math_mode(Id self, Selector, Integer mode) {
  as<CompileOptions>(self).safe_math = mode == 0;
}
void set_fast_math(Id self, Selector, bool on) { as<CompileOptions>(self).safe_math = !on; }

struct Library final : Object {
  explicit Library(std::string text) : Object(class_named("MTLLibrary")), source(std::move(text)) {}
  std::string source;
};

struct Function final : Object {
  explicit Function(std::string kernel)
      : Object(class_named("MTLFunction")), name(std::move(kernel)) {}
  std::string name;
};

/// What a method named new returns: the caller's own, or under the planted fault the pool's.
Id owned_by_caller(Object* object) {
  return settings.autoreleased == object->type.name ? autorelease(object) : id_of(object);
}

Id new_function(Id, Selector, Id name) {
  const std::string& kernel = as<String>(name).text;
  const auto known = metal_on_cpu::kernel_names();
  const bool there = std::ranges::find(known, kernel) != known.end();
  return there ? id_of(new Function(kernel)) : nullptr;
}

struct Array final : Object {
  Array() : Object(class_named("NSArray")) {}
  ~Array() override {
    for (Object* member : members) release(*member);
  }
  std::vector<Object*> members;
};
UInteger array_count(Id self, Selector) { return as<Array>(self).members.size(); }
Id object_at(Id self, Selector, UInteger index) { return id_of(as<Array>(self).members.at(index)); }
Id function_names(Id, Selector) {
  auto* names = new Array();
  for (const std::string& name : metal_on_cpu::kernel_names()) {
    names->members.push_back(new String(name));
  }
  return autorelease(names);
}

struct Pipeline final : Object {
  explicit Pipeline(std::string kernel)
      : Object(class_named("MTLComputePipelineState")), name(std::move(kernel)) {}
  std::string name;
};
UInteger pipeline_max_threads(Id, Selector) { return settings.max_threads; }
UInteger execution_width(Id, Selector) { return 32; }

// ---- command buffers ----------------------------------------------------------------------------

struct Binding {
  Buffer* buffer = nullptr;  // retained by the command buffer, as Metal does
  uint64_t offset = 0;
  std::vector<std::byte> bytes;  // of setBytes
  bool is_set = false;
};

struct Work {
  std::string kernel;
  Size groups;
  Size threads;
  std::vector<Binding> bindings;
  std::vector<size_t> threadgroup;
  int64_t after_barriers = 0;
};

struct CommandBuffer final : Object {
  CommandBuffer() : Object(class_named("MTLCommandBuffer")) {}
  ~CommandBuffer() override {
    for (Object* object : kept) release(*object);
    if (failure != nullptr) release(*failure);
  }
  void keep(Object& object) {
    retain(object);
    kept.push_back(&object);
  }
  std::vector<Object*> kept;
  std::vector<Work> work;
  ErrorObject* failure = nullptr;
  bool encoding = false;
  bool committed = false;
  bool done = false;
};

struct Encoder final : Object {
  explicit Encoder(CommandBuffer& commands)
      : Object(class_named("MTLComputeCommandEncoder")), owner(commands) {
    retain(owner);
    owner.encoding = true;
  }
  ~Encoder() override { release(owner); }
  Binding& binding(UInteger index) {
    if (index >= 31) throw Misuse("buffer index " + std::to_string(index) + " is past 30");
    if (bindings.size() <= index) bindings.resize(index + 1);
    return bindings[index];
  }
  void check_open() const {
    if (!owner.encoding || owner.committed) throw Misuse("encoding after endEncoding");
  }
  CommandBuffer& owner;
  Pipeline* pipeline = nullptr;
  std::vector<Binding> bindings;
  std::vector<size_t> threadgroup;
  int64_t barriers = 0;
};

void set_pipeline(Id self, Selector, Id pipeline) {
  auto& encoder = as<Encoder>(self);
  encoder.check_open();
  encoder.pipeline = &as<Pipeline>(pipeline);
  encoder.owner.keep(*encoder.pipeline);
}

void set_buffer(Id self, Selector, Id buffer, UInteger offset, UInteger index) {
  auto& encoder = as<Encoder>(self);
  encoder.check_open();
  auto& memory = as<Buffer>(buffer);
  if (offset >= memory.bytes) throw Misuse("setBuffer: the offset is past the buffer's end");
  if (offset % 4 != 0) throw Misuse("setBuffer: the offset is no multiple of 4");
  encoder.owner.keep(memory);
  encoder.binding(index) = {&memory, offset, {}, true};
}

void set_bytes(Id self, Selector, const void* data, UInteger length, UInteger index) {
  auto& encoder = as<Encoder>(self);
  encoder.check_open();
  if (length > 4096) throw Misuse("setBytes: more than 4 KiB");
  Binding binding;
  binding.bytes.resize(length);
  std::memcpy(binding.bytes.data(), data, length);
  binding.is_set = true;
  encoder.binding(index) = std::move(binding);
}

void set_threadgroup_memory(Id self, Selector, UInteger length, UInteger index) {
  auto& encoder = as<Encoder>(self);
  encoder.check_open();
  if (length % 16 != 0) throw Misuse("threadgroup memory is no multiple of 16 bytes");
  if (encoder.threadgroup.size() <= index) encoder.threadgroup.resize(index + 1);
  encoder.threadgroup[index] = length;
}

/// What the validation layer looks at before it lets a dispatch pass.
void check_dispatch(const Encoder& encoder, const Size& groups, const Size& threads) {
  if (encoder.pipeline == nullptr) throw Misuse("a dispatch without a pipeline");
  const std::string& kernel = encoder.pipeline->name;
  if (groups.width * groups.height * groups.depth == 0) throw Misuse(kernel + ": an empty grid");
  if (threads.width * threads.height * threads.depth > settings.max_threads) {
    throw Misuse(kernel + ": more threads than the pipeline takes");
  }
  uint64_t threadgroup = 0;
  for (const size_t bytes : encoder.threadgroup) threadgroup += bytes;
  if (threadgroup > metal_on_cpu::kMostThreadgroupBytes) {
    throw Misuse(kernel + ": more than 32 KiB of threadgroup memory");
  }
  using Kind = metal_on_cpu::Argument::Kind;
  for (const auto& argument : metal_on_cpu::arguments_of(kernel)) {
    const std::string name = kernel + ": argument " + argument.name;
    if (argument.kind == Kind::kThread) continue;
    if (argument.kind == Kind::kThreadgroup) {
      const bool is_set =
          argument.index < encoder.threadgroup.size() && encoder.threadgroup[argument.index] > 0;
      if (!is_set) throw Misuse(name + " has no threadgroup memory");
      continue;
    }
    const bool is_set =
        argument.index < encoder.bindings.size() && encoder.bindings[argument.index].is_set;
    if (!is_set) throw Misuse(name + " is not set");
  }
}

/// Two dispatches that no barrier parts, one writing what the other is bound to at the same place.
/// The status word is touched by atomics alone.
void check_barrier(const Work& earlier, const Work& later) {
  using Kind = metal_on_cpu::Argument::Kind;
  for (const auto& a : metal_on_cpu::arguments_of(earlier.kernel)) {
    for (const auto& b : metal_on_cpu::arguments_of(later.kernel)) {
      const bool buffers = (a.kind == Kind::kDeviceRead || a.kind == Kind::kDeviceWrite) &&
                           (b.kind == Kind::kDeviceRead || b.kind == Kind::kDeviceWrite);
      const bool writes = a.kind == Kind::kDeviceWrite || b.kind == Kind::kDeviceWrite;
      if (!buffers || !writes || a.name == "status" || b.name == "status") continue;
      const Binding& x = earlier.bindings[a.index];
      const Binding& y = later.bindings[b.index];
      if (x.buffer == nullptr || x.buffer != y.buffer || x.offset != y.offset) continue;
      throw Misuse("no barrier between " + earlier.kernel + " (" + a.name + ") and " +
                   later.kernel + " (" + b.name + ")");
    }
  }
}

void dispatch(Id self, Selector, Size groups, Size threads) {
  const Lock lock(device_mutex);
  auto& encoder = as<Encoder>(self);
  encoder.check_open();
  check_dispatch(encoder, groups, threads);
  Work work{encoder.pipeline->name, groups,          threads, encoder.bindings,
            encoder.threadgroup,    encoder.barriers};
  for (const Work& earlier : encoder.owner.work) {
    if (earlier.after_barriers == work.after_barriers) check_barrier(earlier, work);
  }
  encoder.owner.work.push_back(std::move(work));
  ++counted.dispatches;
}

void memory_barrier(Id self, Selector, UInteger scope) {
  const Lock lock(device_mutex);
  auto& encoder = as<Encoder>(self);
  encoder.check_open();
  if ((scope & 1) == 0) throw Misuse("memoryBarrierWithScope: not of buffers");
  if (!settings.ignore_barriers) ++encoder.barriers;
  ++counted.barriers;
}

void end_encoding(Id self, Selector) { as<Encoder>(self).owner.encoding = false; }

Id compute_encoder(Id self, Selector, UInteger type) {
  if (type != 1) throw Misuse("the encoder is not concurrent");
  return autorelease(new Encoder(as<CommandBuffer>(self)));
}

void execute(Work& work) {
  if (work.kernel == settings.broken_kernel) return;
  metal_on_cpu::Dispatch dispatch;
  const auto size = [](const Size& s) {
    return metal_on_cpu::Size3{static_cast<uint32_t>(s.width), static_cast<uint32_t>(s.height),
                               static_cast<uint32_t>(s.depth)};
  };
  dispatch.kernel = work.kernel;
  dispatch.grid = size(work.groups);
  dispatch.threads = size(work.threads);
  for (Binding& binding : work.bindings) {
    if (binding.buffer != nullptr) {
      dispatch.buffers.push_back(
          {binding.buffer->begin + binding.offset, binding.buffer->bytes - binding.offset});
    } else {
      dispatch.buffers.push_back({binding.bytes.data(), binding.bytes.size()});
    }
  }
  dispatch.threadgroup_bytes = work.threadgroup;
  metal_on_cpu::run(dispatch);
}

void commit(Id self, Selector) {
  const Lock lock(device_mutex);
  auto& commands = as<CommandBuffer>(self);
  if (commands.encoding) throw Misuse("commit before endEncoding");
  if (commands.committed) throw Misuse("committed twice");
  commands.committed = true;
  if (counted.command_buffers++ == settings.lose_device_at) {
    commands.failure = new ErrorObject(settings.error_code, settings.error_text);
    return;
  }
  // What no barrier parts may run in any order: the last first.
  auto& all = commands.work;
  counted.kernels.clear();
  for (const Work& work : all) counted.kernels.push_back(work.kernel);
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin;
    while (end < all.size() && all[end].after_barriers == all[begin].after_barriers) ++end;
    for (size_t i = end; i-- > begin;) execute(all[i]);
    begin = end;
  }
}

void wait_until_completed(Id self, Selector) {
  auto& commands = as<CommandBuffer>(self);
  if (!commands.committed) throw Misuse("waiting for what was not committed");
  commands.done = true;
}
UInteger status(Id self, Selector) {
  const auto& commands = as<CommandBuffer>(self);
  return commands.failure != nullptr ? 5 : commands.done ? 4 : 2;
}
Id error(Id self, Selector) {
  auto& commands = as<CommandBuffer>(self);
  return commands.failure == nullptr ? nullptr : id_of(commands.failure);
}

struct Queue final : Object {
  Queue() : Object(class_named("MTLCommandQueue")) {}
};
Id command_buffer(Id, Selector) { return autorelease(new CommandBuffer()); }

// ---- residency ----------------------------------------------------------------------------------

struct ResidencyDescriptor final : Object {
  ResidencyDescriptor() : Object(class_named("MTLResidencySetDescriptor")) {}
};
Id new_descriptor(Id, Selector) { return id_of(new ResidencyDescriptor()); }

struct ResidencySet final : Object {
  ResidencySet() : Object(class_named("MTLResidencySet")) {}
  ~ResidencySet() override {
    for (Object* object : members) release(*object);
  }
  std::vector<Object*> members;
};
void add_allocation(Id self, Selector, Id buffer) {
  retain(as<Object>(buffer));
  as<ResidencySet>(self).members.push_back(&as<Object>(buffer));
}
void remove_allocation(Id self, Selector, Id buffer) {
  auto& members = as<ResidencySet>(self).members;
  const auto found = std::ranges::find(members, &as<Object>(buffer));
  if (found == members.end()) throw Misuse("removeAllocation: of what is not in the set");
  members.erase(found);
  release(as<Object>(buffer));
}
void nothing_to_do(Id, Selector) {}
void add_residency_set(Id, Selector, Id) {}

// ---- the device ---------------------------------------------------------------------------------

struct Device final : Object {
  Device() : Object(class_named("MTLDevice")) {}
};

Id device_name(Id, Selector) { return autorelease(new String("Fake M1")); }
bool supports_family(Id, Selector, Integer family) { return family <= 1000 + settings.family; }
UInteger max_buffer_length(Id, Selector) { return settings.max_buffer_bytes; }
uint64_t working_set(Id, Selector) { return uint64_t{1} << 33; }
UInteger max_threadgroup(Id, Selector) { return metal_on_cpu::kMostThreadgroupBytes; }
Id new_queue(Id, Selector) { return id_of(new Queue()); }

Id new_buffer(Id, Selector, UInteger length, UInteger) {
  const Lock lock(device_mutex);
  if (length == 0) throw Misuse("newBufferWithLength: of nothing");
  if (length > settings.max_buffer_bytes) return nullptr;
  if (length > settings.most_memory - counted.allocated_bytes) return nullptr;
  auto* buffer = new Buffer(nullptr, length);
  // Metal's buffers are zeroed by luck alone.
  buffer->owned.assign(length, std::byte{0xA5});
  buffer->begin = buffer->owned.data();
  counted.allocated_bytes += length;
  return owned_by_caller(buffer);
}

Id new_buffer_no_copy(Id, Selector, void* data, UInteger length, UInteger, void* deallocator) {
  constexpr uint64_t kPage = 4096;
  if (deallocator != nullptr) throw Misuse("deallocators are blocks, and not for us");
  if (reinterpret_cast<uintptr_t>(data) % kPage != 0 || length % kPage != 0 || length == 0) {
    throw Misuse("newBufferWithBytesNoCopy: not whole pages");
  }
  if (length > settings.max_buffer_bytes) return nullptr;
  return id_of(new Buffer(static_cast<std::byte*>(data), length));
}

Id new_library(Id, Selector, Id source, Id options, Id* error) {
  const Lock lock(device_mutex);
  const auto& given = as<CompileOptions>(options);
  if (given.version != 0x30000 || !given.safe_math) throw Misuse("compile options");
  ++counted.compilations;
  const std::string& text = as<String>(source).text;
  std::string refusal = settings.compile_error;
  if (text.find("#include \"") != std::string::npos) refusal = "an include in a library's source";
  if (!refusal.empty()) {
    if (error != nullptr) *error = autorelease(new ErrorObject(3, refusal));
    return nullptr;
  }
  return id_of(new Library(text));
}

Id new_pipeline(Id, Selector, Id function, Id*) {
  return owned_by_caller(new Pipeline(as<Function>(function).name));
}

Id new_residency_set(Id, Selector, Id, Id*) { return id_of(new ResidencySet()); }

// ---- the tables ---------------------------------------------------------------------------------

void define(const std::string& name, std::map<std::string, Method, std::less<>> methods,
            std::map<std::string, Method, std::less<>> class_methods = {}) {
  Class& type = class_named(name);
  type.methods = std::move(methods);
  type.class_methods = std::move(class_methods);
  add_common_methods(type);
}

void define_foundation() {
  define("NSString", {{"UTF8String", method(utf8_string)}},
         {{"stringWithUTF8String:", method(string_with_utf8)}});
  define("NSError",
         {{"localizedDescription", method(localized_description)}, {"code", method(error_code)}});
  define("NSArray", {{"count", method(array_count)}, {"objectAtIndex:", method(object_at)}});
  define("NSProcessInfo", {{"operatingSystemVersionString", method(system_version)}},
         {{"processInfo", method(process_info)}});
}

void define_compilation() {
  std::map<std::string, Method, std::less<>> options = {
      {"setLanguageVersion:", method(set_language_version)},
      {"setFastMathEnabled:", method(set_fast_math)}};
  if (!settings.before_macos_15) options["setMathMode:"] = method(set_math_mode);
  define("MTLCompileOptions", options, {{"new", method(new_options)}});
  define("MTLLibrary", {{"newFunctionWithName:", method(new_function)},
                        {"functionNames", method(function_names)}});
  define("MTLFunction", {});
  define("MTLComputePipelineState",
         {{"maxTotalThreadsPerThreadgroup", method(pipeline_max_threads)},
          {"threadExecutionWidth", method(execution_width)}});
}

void define_commands() {
  define("MTLBuffer", {{"contents", method(contents)}});
  define("MTLCommandQueue", {{"commandBuffer", method(command_buffer)},
                             {"addResidencySet:", method(add_residency_set)}});
  define("MTLCommandBuffer", {{"computeCommandEncoderWithDispatchType:", method(compute_encoder)},
                              {"commit", method(commit)},
                              {"waitUntilCompleted", method(wait_until_completed)},
                              {"status", method(status)},
                              {"error", method(error)}});
  define("MTLComputeCommandEncoder",
         {{"setComputePipelineState:", method(set_pipeline)},
          {"setBuffer:offset:atIndex:", method(set_buffer)},
          {"setBytes:length:atIndex:", method(set_bytes)},
          {"setThreadgroupMemoryLength:atIndex:", method(set_threadgroup_memory)},
          {"dispatchThreadgroups:threadsPerThreadgroup:", method(dispatch)},
          {"memoryBarrierWithScope:", method(memory_barrier)},
          {"endEncoding", method(end_encoding)}});
  define("MTLResidencySetDescriptor", {}, {{"new", method(new_descriptor)}});
  define("MTLResidencySet", {{"addAllocation:", method(add_allocation)},
                             {"removeAllocation:", method(remove_allocation)},
                             {"commit", method(nothing_to_do)},
                             {"requestResidency", method(nothing_to_do)},
                             {"endResidency", method(nothing_to_do)}});
}

void define_device() {
  std::map<std::string, Method, std::less<>> device = {
      {"name", method(device_name)},
      {"supportsFamily:", method(supports_family)},
      {"maxBufferLength", method(max_buffer_length)},
      {"recommendedMaxWorkingSetSize", method(working_set)},
      {"maxThreadgroupMemoryLength", method(max_threadgroup)},
      {"newCommandQueue", method(new_queue)},
      {"newBufferWithLength:options:", method(new_buffer)},
      {"newBufferWithBytesNoCopy:length:options:deallocator:", method(new_buffer_no_copy)},
      {"newLibraryWithSource:options:error:", method(new_library)},
      {"newComputePipelineStateWithFunction:error:", method(new_pipeline)}};
  if (!settings.before_macos_15) {
    device["newResidencySetWithDescriptor:error:"] = method(new_residency_set);
  }
  define("MTLDevice", device);
}

/// Leaks are counted at every test's end.
[[maybe_unused]] const bool watched = [] {
  test::after_each([] {
    if (live_object_count() != 0)
      test::fail(__FILE__, __LINE__, "Metal's objects outlive the test");
  });
  return true;
}();

}  // namespace

void reset(const Settings& next) {
  settings = next;
  counted = {};
  define_foundation();
  define_compilation();
  define_commands();
  define_device();
}

Counts counts() {
  Counts now = counted;
  now.live_objects = live_object_count();
  now.over_releases = over_release_count();
  return now;
}

}  // namespace subbit::fake_metal

extern "C" objc_object* MTLCreateSystemDefaultDevice(void) {
  using namespace subbit::fake_metal;
  return settings.no_device ? nullptr : id_of(new Device());
}

#endif  // !defined(__APPLE__)
