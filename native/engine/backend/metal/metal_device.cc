// Apple's GPU as a GpuDevice: the one file that talks to Metal, through the Objective-C runtime and
// the table of selectors.h. It must run on macOS 13: what is newer is asked for first. The calling
// thread waits for completion; there are no blocks.
#include "backend/metal/metal_device.h"

#include <algorithm>
#include <optional>
#include <string>
#include <unistd.h>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/metal/objc.h"
#include "backend/metal/selectors.h"
#include "backend/metal/shader_library.h"
#include "base/check.h"
#include "base/error.h"

extern "C" objc_object* MTLCreateSystemDefaultDevice(void);

namespace subbit {
namespace {

using objc::AutoreleasePool;
using objc::Id;
using objc::Owned;
using objc::selectors;

// Values of Metal's enumerations.
constexpr objc::UInteger kSharedUntracked = 0x100;     // storage shared, hazards tracked by us
constexpr objc::UInteger kLanguageVersion3 = 0x30000;  // MSL 3.0: macOS 13
constexpr objc::Integer kMathModeSafe = 0;
constexpr objc::UInteger kDispatchConcurrent = 1;
constexpr objc::UInteger kBarrierBuffers = 1;
constexpr objc::UInteger kStatusCompleted = 4;
constexpr objc::Integer kFamilyApple1 = 1001;
constexpr objc::Integer kOldestFamily = 7;  // M1
constexpr objc::Integer kNewestFamily = 12;
constexpr objc::UInteger kSimdWidth = 32;  // every kernel is written for it

// MTLCommandBufferError.
constexpr objc::Integer kErrorTimeout = 2;
constexpr objc::Integer kErrorOutOfMemory = 8;

std::string text_of(Id string) {
  const char* text = selectors().utf8_string(string);
  return text == nullptr ? "" : text;
}

std::string description_of(Id error) {
  return error == nullptr ? "no reason given" : text_of(selectors().localized_description(error));
}

Id string_of(const std::string& text) {
  return selectors().string_with_utf8(objc_getClass("NSString"), text.c_str());
}

Owned make(const char* class_name) {
  return Owned(selectors().alloc_new(objc_getClass(class_name)));
}

bool responds(Id object, objc::Selector selector) {
  return selectors().responds_to(object, selector);
}

Error unavailable(const std::string& what, const std::string& reason) {
  return Error(ErrorCode::kDeviceUnavailable, what + ": " + reason, {{"device", "metal"}});
}

/// A buffer, and its place in the device's residency set while it lives.
class MetalMemory final : public GpuMemory {
 public:
  MetalMemory(Owned buffer, std::span<std::byte> bytes, Id residency)
      : GpuMemory(bytes), buffer_(std::move(buffer)), residency_(residency) {
    if (residency_ == nullptr) return;
    selectors().add_allocation(residency_, buffer_.get());
    selectors().commit(residency_);
  }
  ~MetalMemory() override {
    if (residency_ == nullptr) return;
    selectors().remove_allocation(residency_, buffer_.get());
    selectors().commit(residency_);
  }
  Id buffer() const { return buffer_.get(); }

 private:
  Owned buffer_;
  Id residency_;
};

class MetalPipeline final : public GpuPipeline {
 public:
  explicit MetalPipeline(Owned state)
      : state_(std::move(state)),
        max_threads_(static_cast<uint32_t>(selectors().max_threads(state_.get()))) {}
  uint32_t max_threads() const override { return max_threads_; }
  Id state() const { return state_.get(); }

 private:
  Owned state_;
  uint32_t max_threads_;
};

/// Command buffers and encoders are autoreleased: the pool that begin() puts in place frees them,
/// on the thread that did.
class MetalCommands final : public GpuCommands {
 public:
  ~MetalCommands() override { drop(); }

  void begin(Id queue) {
    CHECK(!pool_);
    pool_.emplace();
    buffer_ = selectors().command_buffer(queue);
    encoder_ = selectors().compute_encoder(buffer_, kDispatchConcurrent);
    if (encoder_ == nullptr) {
      drop();
      throw unavailable("Metal", "no command buffer to be had");
    }
  }
  void pipeline(const GpuPipeline& pipeline) override {
    pipeline_ = &static_cast<const MetalPipeline&>(pipeline);
    selectors().set_pipeline(encoder_, pipeline_->state());
  }
  void bind(int index, const GpuSlice& slice) override {
    const auto& memory = static_cast<const MetalMemory&>(*slice.memory);
    selectors().set_buffer(encoder_, memory.buffer(), slice.offset,
                           static_cast<objc::UInteger>(index));
  }
  void bytes(int index, std::span<const std::byte> data) override {
    CHECK(data.size() <= 4096);
    selectors().set_bytes(encoder_, data.data(), data.size(), static_cast<objc::UInteger>(index));
  }
  void threadgroup_memory(int index, uint32_t bytes) override {
    selectors().set_threadgroup_memory(encoder_, bytes, static_cast<objc::UInteger>(index));
  }
  void dispatch(GridSize groups, GridSize threads) override {
    // Metal drops a dispatch with too many threads without a word: outputs stay as they were.
    CHECK(pipeline_ != nullptr && threads.count() <= pipeline_->max_threads());
    selectors().dispatch(encoder_, {groups.x, groups.y, groups.z},
                         {threads.x, threads.y, threads.z});
  }
  void barrier() override { selectors().memory_barrier(encoder_, kBarrierBuffers); }
  void run() override;
  void drop() override {
    end();
    pipeline_ = nullptr;
    buffer_ = nullptr;
    pool_.reset();
  }

 private:
  void end() {
    if (encoder_ != nullptr) selectors().end_encoding(encoder_);
    encoder_ = nullptr;
  }

  std::optional<AutoreleasePool> pool_;
  Id buffer_ = nullptr;
  Id encoder_ = nullptr;
  const MetalPipeline* pipeline_ = nullptr;
};

void MetalCommands::run() {
  CHECK(encoder_ != nullptr);
  struct Drop {
    MetalCommands& self;
    ~Drop() { self.drop(); }
  } const spent{*this};
  end();
  selectors().commit(buffer_);
  selectors().wait_until_completed(buffer_);
  const Id error = selectors().error(buffer_);
  if (error == nullptr && selectors().status(buffer_) == kStatusCompleted) return;
  const objc::Integer code = error == nullptr ? 0 : selectors().code(error);
  const std::string said = description_of(error);
  if (code == kErrorOutOfMemory) {
    throw Error(ErrorCode::kInsufficientMemory, "the GPU ran out of memory: " + said,
                {{"device", "metal"}, {"reason", said}});
  }
  throw Error(ErrorCode::kDeviceLost,
              code == kErrorTimeout ? "the GPU took too long: " + said
                                    : "the GPU gave up on our work: " + said,
              {{"device", "metal"}, {"reason", said}, {"metal_error", std::to_string(code)}});
}

class MetalDevice final : public GpuDevice {
 public:
  MetalDevice();
  ~MetalDevice() override {
    if (residency_) selectors().end_residency(residency_.get());
  }

  const GpuFacts& facts() const override { return facts_; }
  std::unique_ptr<GpuMemory> map(std::span<std::byte> pages) override;
  std::unique_ptr<GpuMemory> allocate(uint64_t bytes) override;
  const GpuPipeline& pipeline(std::string_view kernel) override;
  std::vector<std::string_view> kernels() override;
  GpuCommands& begin() override {
    commands_.begin(queue_.get());
    return commands_;
  }

 private:
  void read_facts();
  void compile();
  void make_residency_set();
  std::unique_ptr<GpuMemory> keep(Owned buffer, std::span<std::byte> bytes);

  Owned device_;
  GpuFacts facts_;
  Owned library_;
  std::vector<std::string> kernels_;  // asked for by kernels()
  std::unordered_map<std::string_view, std::unique_ptr<MetalPipeline>> pipelines_;
  Owned queue_;
  Owned residency_;  // null before macOS 15
  MetalCommands commands_;
};

MetalDevice::MetalDevice() : device_(MTLCreateSystemDefaultDevice()) {
  if (!device_) throw unavailable("Metal", "this Mac offers no GPU to this process");
  const AutoreleasePool pool;
  read_facts();
  // First: a virtual GPU runs no kernel of ours, but its compiler's word is worth having.
  compile();
  if (facts_.family < kOldestFamily) {
    throw unavailable("Metal", facts_.name + " is of GPU family " + std::to_string(facts_.family) +
                                   ", and the kernels need 7 (the M1) or newer");
  }
  queue_ = Owned(selectors().new_command_queue(device_.get()));
  if (!queue_) throw unavailable("Metal", "no command queue to be had");
  make_residency_set();
}

/// What is in the set stays resident between command buffers, which otherwise cost a check of every
/// page. Without it all works as well.
void MetalDevice::make_residency_set() {
  if (!responds(device_.get(), selectors().new_residency_set.selector())) return;
  const Owned descriptor = make("MTLResidencySetDescriptor");
  Id error = nullptr;
  residency_ = Owned(selectors().new_residency_set(device_.get(), descriptor.get(), &error));
  if (!residency_) return;
  selectors().add_residency_set(queue_.get(), residency_.get());
  selectors().request_residency(residency_.get());
}

void MetalDevice::read_facts() {
  const Id device = device_.get();
  facts_.name = text_of(selectors().name(device));
  const Id process = selectors().process_info(objc_getClass("NSProcessInfo"));
  facts_.system = text_of(selectors().operating_system_version(process));
  for (objc::Integer family = kNewestFamily; family > 0 && facts_.family == 0; --family) {
    if (selectors().supports_family(device, kFamilyApple1 + family - 1)) {
      facts_.family = static_cast<int>(family);
    }
  }
  facts_.max_buffer_bytes = selectors().max_buffer_length(device);
  facts_.working_set_bytes = selectors().recommended_working_set(device);
  facts_.threadgroup_bytes = selectors().max_threadgroup_memory(device);
  facts_.page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void MetalDevice::compile() {
  const Owned options = make("MTLCompileOptions");
  selectors().set_language_version(options.get(), kLanguageVersion3);
  // Fast math may reorder sums and drop NaNs; kernels say fast:: where they want it.
  if (responds(options.get(), selectors().set_math_mode.selector())) {
    selectors().set_math_mode(options.get(), kMathModeSafe);
  } else {
    selectors().set_fast_math(options.get(), false);
  }
  Id error = nullptr;
  library_ = Owned(selectors().new_library(device_.get(), string_of(shader_library(shader_files())),
                                           options.get(), &error));
  if (!library_) throw unavailable("the shaders do not compile on this Mac", description_of(error));
}

std::unique_ptr<GpuMemory> MetalDevice::map(std::span<std::byte> pages) {
  CHECK(reinterpret_cast<uintptr_t>(pages.data()) % facts_.page_bytes == 0);
  CHECK(pages.size() % facts_.page_bytes == 0 && pages.size() <= facts_.max_buffer_bytes);
  const AutoreleasePool pool;
  Owned buffer(selectors().new_buffer_no_copy(device_.get(), pages.data(), pages.size(),
                                              kSharedUntracked, nullptr));
  return keep(std::move(buffer), pages);
}

std::unique_ptr<GpuMemory> MetalDevice::allocate(uint64_t bytes) {
  const AutoreleasePool pool;
  Owned buffer(selectors().new_buffer(device_.get(), bytes, kSharedUntracked));
  auto* begin = buffer ? static_cast<std::byte*>(selectors().contents(buffer.get())) : nullptr;
  return keep(std::move(buffer), {begin, bytes});
}

std::unique_ptr<GpuMemory> MetalDevice::keep(Owned buffer, std::span<std::byte> bytes) {
  if (!buffer) {
    throw Error(
        ErrorCode::kInsufficientMemory, "the GPU has no memory to give",
        {{"device", "metal"}, {"actual", std::to_string(bytes.size()) + " bytes asked for"}});
  }
  return std::make_unique<MetalMemory>(std::move(buffer), bytes, residency_.get());
}

const GpuPipeline& MetalDevice::pipeline(std::string_view kernel) {
  if (const auto known = pipelines_.find(kernel); known != pipelines_.end()) return *known->second;
  const AutoreleasePool pool;
  const std::string name(kernel);
  const Owned function(selectors().new_function(library_.get(), string_of(name)));
  if (!function) throw unavailable("the shaders", "there is no kernel " + name);
  Id error = nullptr;
  Owned state(selectors().new_pipeline(device_.get(), function.get(), &error));
  if (!state) throw unavailable("the kernel " + name, description_of(error));
  if (const objc::UInteger width = selectors().execution_width(state.get()); width != kSimdWidth) {
    throw unavailable("the kernel " + name,
                      "this GPU runs " + std::to_string(width) + " lanes at once instead of 32");
  }
  return *pipelines_.emplace(kernel, std::make_unique<MetalPipeline>(std::move(state)))
              .first->second;
}

std::vector<std::string_view> MetalDevice::kernels() {
  const AutoreleasePool pool;
  if (kernels_.empty()) {
    const Id names = selectors().function_names(library_.get());
    for (objc::UInteger i = 0; i < selectors().count(names); ++i) {
      kernels_.push_back(text_of(selectors().object_at(names, i)));
    }
    std::ranges::sort(kernels_);
  }
  return {kernels_.begin(), kernels_.end()};
}

}  // namespace

std::unique_ptr<GpuDevice> open_metal_device() { return std::make_unique<MetalDevice>(); }

}  // namespace subbit
