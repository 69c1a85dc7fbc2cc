// Timing. Weights are bytes without meaning, built into GpuWeights by hand: no format is packed.
// Calls walk through more memory than caches hold, several to a command buffer, so that what is
// timed is the kernel and not the waiting for its end.
#include "backend/gpu/kernel_times.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "backend/gpu/encoder.h"
#include "base/buffer.h"
#include "base/error.h"
#include "formats/signs/layout.h"
#include "metal/read_bandwidth.h"

namespace subbit {
namespace {

using Kind = StoredWeight::Kind;
using Tag = StoredWeight::TermTag;

constexpr int64_t kSmallRows = 128;
constexpr int64_t kLargeRows = 4096;
constexpr double kSlow = 0.002;   // seconds of a small call: no GPU takes so long
constexpr double kEnough = 0.02;  // seconds of a command buffer
/// Seconds of a small call among many: hardware takes a few microseconds, what stands in for it on
/// a processor a thousand, and would take minutes over large matrices.
constexpr double kHardware = 1e-4;
constexpr uint64_t kSmallMemory = 1 << 20;
constexpr uint64_t kLargeMemory = 256 << 20;  // beyond every last-level cache

/// A product to be timed.
struct Product {
  Kind kind;
  Tag tag;
  SignKernel sign;
  CallSize size;
};

int64_t tokens_of(CallSize size, int64_t rows) {
  if (size == CallSize::kOne) return 1;
  if (size == CallSize::kFew) return 4;
  return rows == kSmallRows ? 9 : 128;
}

std::string_view name_of(const Product& p) {
  if (p.kind != Kind::kPacked) return plain_kernel(p.kind, OutputMode::kOverwrite, p.size);
  if (p.size == CallSize::kOne) return gemv_kernel(p.sign, p.tag, Epilogue::kStore);
  return p.size == CallSize::kFew ? columns_kernel(p.tag, Epilogue::kStore) : gemm_kernel(p.tag);
}

std::vector<Product> all_products() {
  std::vector<Product> products;
  for (const CallSize size : {CallSize::kOne, CallSize::kFew, CallSize::kPrompt}) {
    for (const Tag tag : {Tag::kSign, Tag::kCode84, Tag::kTable}) {
      products.push_back({Kind::kPacked, tag, SignKernel::kPopcount, size});
    }
    for (int k = static_cast<int>(Kind::kF32); k < static_cast<int>(Kind::kPacked); ++k) {
      products.push_back({static_cast<Kind>(k), Tag::kSign, SignKernel::kPopcount, size});
    }
  }
  products.push_back({Kind::kPacked, Tag::kSign, SignKernel::kSelect, CallSize::kOne});
  std::erase_if(products, [](const Product& p) { return name_of(p).empty(); });
  return products;
}

int bits_of(const Product& p) {
  switch (p.kind) {
    case Kind::kF32:
      return 32;
    case Kind::kF16:
    case Kind::kBF16:
      return 16;
    case Kind::kInt8:
      return 8;
    case Kind::kInt4:
      return 4;
    case Kind::kInt3:
      return 3;
    case Kind::kInt2:
      return 2;
    case Kind::kPacked:
    case Kind::kOpaque:
      break;
  }
  return 1;
}

class Timer {
 public:
  explicit Timer(const std::shared_ptr<GpuDevice>& device) : device_(device) {
    make_operands(kSmallRows, kSmallMemory);
  }

  int64_t rows() const { return rows_; }
  /// Goes on with large matrices.
  void grow() { make_operands(kLargeRows, kLargeMemory); }

  /// Seconds of one call of `encode(encoder, n)`, the nth: of the quickest command buffer.
  double seconds(const GpuPolicy& policy, const std::function<void(GpuEncoder&, int64_t)>& encode) {
    GpuEncoder encoder(*device_, policy);
    encoder.map().share(std::as_bytes(activations_.span()));
    encoder.map().share(std::as_bytes(cache_.span()));
    double best = std::numeric_limits<double>::infinity();
    for (int64_t calls = 1, round = 0; round < 4; ++round) {
      const double took = run(encoder, calls, encode);
      best = std::min(best, took / static_cast<double>(calls));
      if (best > kSlow) break;
      calls = std::clamp<int64_t>(static_cast<int64_t>(kEnough / best), 1, 512);
    }
    return best;
  }

  /// Of `bytes`, the nth piece of the memory, which comes again when caches have forgotten it.
  GpuSlice weights(uint64_t bytes, int64_t n) const {
    const uint64_t each = (bytes + 255) / 256 * 256;
    const uint64_t pieces = weights_->bytes().size() / each;
    return {weights_.get(), static_cast<uint64_t>(n) % pieces * each, bytes};
  }
  /// Of the cache, and as many tokens of a prompt as go by blocks.
  int64_t positions() const { return rows_ == kSmallRows ? 32 : 1024; }
  KvLayer cache(KvType type) {
    return {type, cache_.data(), cache_.data() + cache_.size() / 2, positions()};
  }
  Tensor x(int64_t tokens) { return {activations_.data(), tokens, rows_, rows_, nullptr}; }
  Tensor y(int64_t tokens) {
    return {activations_.data() + activations_.size() / 2, tokens, rows_, rows_, nullptr};
  }

 private:
  void make_operands(int64_t rows, uint64_t memory) {
    rows_ = rows;
    weights_ = device_->allocate(memory);
    // Small positive numbers in every format.
    std::ranges::fill(weights_->bytes(), std::byte{0x2E});
    cache_ = Buffer<float>(rows_ * positions());
    activations_ = Buffer<float>(2 * 128 * rows_);
    for (int64_t i = 0; i < activations_.size(); ++i) {
      activations_[i] = static_cast<float>(i % 31 - 15);
    }
  }
  double run(GpuEncoder& encoder, int64_t calls,
             const std::function<void(GpuEncoder&, int64_t)>& encode) {
    GpuStream& stream = encoder.stream();
    stream.commands = &device_->begin();
    stream.hazards.clear();
    for (int64_t n = 0; n < calls; ++n) encode(encoder, n);
    const auto start = std::chrono::steady_clock::now();
    stream.commands->run();
    encoder.scratch().drop_outgrown();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  std::shared_ptr<GpuDevice> device_;
  int64_t rows_ = 0;
  std::unique_ptr<GpuMemory> weights_;
  Buffer<float> activations_;
  Buffer<float> cache_;  // keys, then values: zeros of either type
};

double bandwidth(Timer& timer) {
  const uint64_t bytes = timer.rows() == kLargeRows ? kLargeMemory / 4 : 1 << 16;
  shader::ReadBandwidthArgs args{static_cast<uint32_t>(bytes / 16)};
  const uint32_t groups = shader::read_groups(args.units);
  const double seconds = timer.seconds(gpu_policy(0), [&](GpuEncoder& encoder, int64_t n) {
    GpuDispatch(encoder.stream(), "read_bandwidth")
        .arguments(args)
        .read(timer.weights(bytes, n))
        .write(encoder.scratch().take(GpuScratch::kSums, 4 * groups))
        .threadgroup(4 * shader::kReadSimdgroups)
        .run({groups}, shader::kReadThreads);
  });
  return static_cast<double>(bytes) / seconds;
}

/// A weight over the nth piece of the timer's memory.
GpuWeight weight_of(const Product& p, const Timer& timer, int64_t n, uint64_t& bytes) {
  const int64_t rows = timer.rows();
  const auto count = static_cast<uint64_t>(rows * rows);
  GpuWeight w;
  w.kind = p.kind;
  w.shape = {rows, rows};
  if (p.kind == Kind::kPacked) {
    bytes = sign_bytes(rows, rows);
    w.terms.emplace_back();
    w.terms[0].tag = p.tag;
    w.terms[0].shape = {rows, rows};
    w.terms[0].words = timer.weights(bytes, n);
    w.s_post = timer.weights(2 * static_cast<uint64_t>(rows), 0);
    if (p.tag == Tag::kCode84) bytes /= 2;
    if (p.tag == Tag::kTable) {
      w.terms[0].shape.table_width = 8;
      w.terms[0].table = timer.weights(256 * 8, 0);
    }
    return w;
  }
  bytes = count * static_cast<uint64_t>(bits_of(p)) / 8;
  w.group = 64;
  w.scales_at = bytes;
  w.code_reach = 127;
  const bool groups = p.kind >= Kind::kInt2;
  if (groups) bytes += 2 * count / 64;
  w.bytes = timer.weights(bytes, n);
  return w;
}

KernelTime time_product(Timer& timer, const Product& p) {
  KernelTime time{std::string(name_of(p)), tokens_of(p.size, timer.rows()), 0, 0};
  GpuPolicy policy = gpu_policy(0);
  policy.sign_kernel = p.sign;
  policy.prompt_kernel = PromptKernel::kMatrix;
  GpuSlice no_bias;
  std::optional<GpuCodes> codes;
  time.seconds = timer.seconds(policy, [&](GpuEncoder& encoder, int64_t n) {
    const GpuWeight w = weight_of(p, timer, n, time.bytes);
    const Tensor x = timer.x(time.tokens);
    const Tensor y = timer.y(time.tokens);
    if (w.is_dense()) return encoder.multiply_dense(w, x, no_bias, y, OutputMode::kOverwrite);
    if (n == 0) codes = encoder.quantize(x, {});
    if (p.kind == Kind::kPacked) {
      encoder.multiply_packed(w, *codes, y, OutputMode::kOverwrite);
    } else {
      encoder.multiply_groups(w, *codes, no_bias, y, OutputMode::kOverwrite);
    }
  });
  return time;
}

/// What is no product: attention, and what a fused pass does inside its products.
struct Operation {
  const char* kernel;
  int64_t tokens;
  int64_t bytes;  // of rows, keys and values that it reads or writes
  std::function<void(GpuEncoder&)> encode;
};

constexpr int64_t kHeadDim = 128;

/// One token's rows, `timer.rows()` wide; the vectors must live as long as the operations.
std::vector<Operation> row_operations(Timer& timer, const std::vector<float>& ones,
                                      const RopeTable& rope) {
  const int64_t rows = timer.rows();
  const int64_t row = 4 * rows;
  const Tensor x = timer.x(1);
  const Tensor up = timer.x(2).rows_from(1, 1);
  Tensor y = timer.y(1);
  y.row_scale = y.data + rows;
  Tensor plain = timer.y(1);
  return {
      {"rms_norm", 1, 3 * row, [=, &ones](GpuEncoder& e) { e.rms_norm(x, {ones, 1e-5f}, y); }},
      {"quantize", 1, row, [=](GpuEncoder& e) { e.quantize(x, {}); }},
      {"rope", 1, 2 * row, [=, &rope](GpuEncoder& e) { e.rope(rope, 0, rows / kHeadDim, plain); }},
      {"swiglu", 1, 3 * row, [=](GpuEncoder& e) { e.swiglu(x, up, plain); }},
      {"argmax", 1, row, [=](GpuEncoder& e) { e.argmax(x); }},
  };
}

std::vector<Operation> cache_operations(Timer& timer, const RopeTable& rope) {
  const int64_t heads = timer.rows() / kHeadDim;
  const AttentionShape shape = {heads, heads, kHeadDim};
  const int64_t last = timer.positions() - 1;
  const int64_t row = 4 * timer.rows();
  const Tensor k = timer.x(1);
  const Tensor v = timer.x(2).rows_from(1, 1);
  const Tensor y = timer.y(1);
  const int64_t block = tokens_of(CallSize::kPrompt, timer.rows());
  std::vector<Operation> all;
  for (const auto& [type, append, attend] :
       {std::tuple(KvType::kF16, "kv_append_f16", "attention_decode_f16"),
        std::tuple(KvType::kI8, "kv_append_i8", "attention_decode_i8")}) {
    const KvLayer kv = timer.cache(type);
    const int64_t bytes = 2 * heads * kv_row_bytes(type, kHeadDim);
    all.push_back(
        {append, 1, 2 * row + bytes, [=](GpuEncoder& e) { e.kv_append(shape, k, v, kv, last); }});
    all.push_back({attend, 1, bytes * (last + 1),
                   [=](GpuEncoder& e) { e.attention(shape, k, kv, last, y, nullptr); }});
  }
  const KvLayer half = timer.cache(KvType::kF16);
  const KvLayer codes = timer.cache(KvType::kI8);
  const int64_t all_bytes = 4 * timer.rows() * (last + 1);
  all.push_back({"rope_append_i8", 1, 4 * row, [=, &rope](GpuEncoder& e) {
                   e.rope_append(shape, rope, y, k, v, codes, last - 1);
                 }});
  all.push_back({"prompt_attention_f16", block, all_bytes, [=, &timer](GpuEncoder& e) {
                   e.attention(shape, timer.x(block), half, last + 1 - block, timer.y(block),
                               nullptr);
                 }});
  return all;
}

void time_operations(Timer& timer, KernelTimes& times) {
  const std::vector<float> ones(static_cast<size_t>(timer.rows()), 1.0f);
  RopeTable rope;
  rope.half_dim = kHeadDim / 2;
  rope.positions = timer.positions();
  rope.cosine.resize(static_cast<size_t>(rope.half_dim * rope.positions), 1.0f);
  rope.sine.resize(rope.cosine.size(), 0.0f);
  std::vector<Operation> all = row_operations(timer, ones, rope);
  for (Operation& operation : cache_operations(timer, rope)) all.push_back(std::move(operation));
  for (const Operation& operation : all) {
    const double seconds = timer.seconds(
        gpu_policy(0), [&](GpuEncoder& encoder, int64_t) { operation.encode(encoder); });
    times.kernels.push_back(
        {operation.kernel, operation.tokens, seconds, static_cast<uint64_t>(operation.bytes)});
  }
}

}  // namespace

KernelTimes time_kernels(const std::shared_ptr<GpuDevice>& device) {
  Timer timer(device);
  KernelTimes times;
  const Product sign = {Kind::kPacked, Tag::kSign, SignKernel::kPopcount, CallSize::kOne};
  if (time_product(timer, sign).seconds < kHardware) timer.grow();
  times.rows = timer.rows();
  times.bytes_per_second = bandwidth(timer);
  for (const Product& product : all_products()) {
    try {
      times.kernels.push_back(time_product(timer, product));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kDeviceUnavailable) throw;
    }
  }
  time_operations(timer, times);
  return times;
}

}  // namespace subbit
