// The operations that between them dispatch every kernel, and what each kernel reads in them.
// Weights are built into GpuWeights by hand: no format is packed.
#include "backend/gpu/kernel_times.h"

#include <algorithm>
#include <utility>

#include "backend/gpu/kernel_timer.h"
#include "base/error.h"
#include "formats/signs/layout.h"
#include "metal/read_bandwidth.h"

namespace subbit {
namespace {

using Kind = StoredWeight::Kind;
using Tag = StoredWeight::TermTag;

/// Seconds of a small product by simdgroup_matrix, among many: hardware takes some microseconds,
/// what stands in for it on a processor thousands, and would take minutes over large matrices.
constexpr double kHardware = 1e-4;
constexpr int64_t kTableWidth = 8;

/// Some calls of the encoder, and the kernels among their dispatches that are timed by them.
struct Operation {
  GpuPolicy policy;
  KernelTimer::Encode encode;
  std::vector<KernelTime> kernels;
};

GpuPolicy policy_of(SignKernel sign) {
  GpuPolicy policy = gpu_policy(0);
  policy.sign_kernel = sign;
  policy.prompt_kernel = PromptKernel::kMatrix;
  return policy;
}

int64_t tokens_of(CallSize size, const KernelTimer& timer) {
  if (size == CallSize::kOne) return 1;
  if (size == CallSize::kFew) return 4;
  return timer.is_small() ? 9 : 128;
}

std::vector<float> ones(int64_t count) {
  return std::vector<float>(static_cast<size_t>(count), 1.0f);
}

class Operations {
 public:
  explicit Operations(KernelTimer& timer)
      : timer_(timer),
        rows_(timer.rows()),
        head_dim_(timer.is_small() ? 32 : 128),
        shape_{rows_ / head_dim_ / 2, rows_ / head_dim_ / 4, head_dim_},
        ones_(ones(rows_)) {
    rope_.half_dim = head_dim_ / 2;
    rope_.positions = timer.positions();
    rope_.cosine = ones(rope_.half_dim * rope_.positions);
    rope_.sine = std::vector<float>(rope_.cosine.size(), 0.0f);
    for (const Tag tag : {Tag::kSign, Tag::kCode84, Tag::kTable}) packed(tag);
    for (int k = static_cast<int>(Kind::kF32); k < static_cast<int>(Kind::kPacked); ++k) {
      plain(static_cast<Kind>(k));
    }
    row_operations();
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) caches(type);
  }

  const std::vector<Operation>& all() const { return all_; }

 private:
  void add(const GpuPolicy& policy, std::vector<KernelTime> kernels, KernelTimer::Encode encode) {
    std::erase_if(kernels, [](const KernelTime& time) { return time.kernel.empty(); });
    all_.push_back({policy, std::move(encode), std::move(kernels)});
  }
  uint64_t row_bytes(int64_t rows) const { return 4 * static_cast<uint64_t>(rows * rows_); }

  void packed(Tag tag);
  void stored(Tag tag, SignKernel sign, CallSize size);
  void fused(Tag tag, SignKernel sign, CallSize size);
  void plain(Kind kind);
  void row_operations();
  void caches(KvType type);

  uint64_t words_bytes(Tag tag) const {
    return sign_bytes(rows_, rows_) / (tag == Tag::kCode84 ? 2 : 1);
  }
  GpuWeight packed_weight(Tag tag, size_t terms, int64_t n) const;
  GpuWeight plain_weight(Kind kind, int64_t n) const;
  uint64_t plain_bytes(Kind kind) const;

  KernelTimer& timer_;
  int64_t rows_;
  int64_t head_dim_;
  AttentionShape shape_;  // whose heads' rows are a matrix's
  std::vector<float> ones_;
  RopeTable rope_;
  std::vector<Operation> all_;
};

/// Over the nth piece of the timer's memory.
GpuWeight Operations::packed_weight(Tag tag, size_t terms, int64_t n) const {
  GpuWeight w;
  w.kind = Kind::kPacked;
  w.shape = {rows_, rows_};
  w.s_post = timer_.weights(2 * static_cast<uint64_t>(rows_), 0);
  GpuWeight::Term term;
  term.tag = tag;
  term.shape.rows = rows_;
  term.shape.columns = rows_;
  term.words = timer_.weights(words_bytes(tag), n);
  if (tag == Tag::kFactored) {
    term.shape.rank = rows_;
    term.second = timer_.weights(words_bytes(tag), n + 1);
  }
  if (tag == Tag::kTable) {
    term.shape.table_width = kTableWidth;
    term.table = timer_.weights(256 * kTableWidth, 0);
  }
  w.terms.assign(terms, term);
  return w;
}

/// What a term's integers become by themselves: a row, more of a row, or sums to be added up.
void Operations::stored(Tag tag, SignKernel sign, CallSize size) {
  const GpuPolicy policy = policy_of(sign);
  const int64_t tokens = tokens_of(size, timer_);
  const uint64_t bytes = words_bytes(tag);
  const auto kernel = [&](Epilogue end) {
    if (size == CallSize::kOne) return std::string(gemv_kernel(sign, tag, end));
    return std::string(columns_kernel(tag, end));
  };
  for (const OutputMode mode : {OutputMode::kOverwrite, OutputMode::kAdd}) {
    const bool adds = mode == OutputMode::kAdd;
    add(policy, {{kernel(adds ? Epilogue::kAdd : Epilogue::kStore), tokens, bytes}},
        [=, this](GpuEncoder& e, int64_t n) {
          e.multiply_packed(packed_weight(tag, 1, n), e.quantize(timer_.x(tokens), {}),
                            timer_.y(tokens), mode);
        });
    add(policy,
        {{kernel(Epilogue::kSums), tokens, bytes},
         {adds ? "finish_terms_add" : "finish_terms", tokens,
          row_bytes(adds ? 4 * tokens : 3 * tokens)}},
        [=, this](GpuEncoder& e, int64_t n) {
          e.multiply_packed(packed_weight(tag, 2, n), e.quantize(timer_.x(tokens), {}),
                            timer_.y(tokens), mode);
        });
  }
}

void Operations::fused(Tag tag, SignKernel sign, CallSize size) {
  const GpuPolicy policy = policy_of(sign);
  const int64_t tokens = tokens_of(size, timer_);
  const uint64_t bytes = words_bytes(tag);
  const auto kernel = [&](Epilogue end) {
    return std::string(size == CallSize::kOne ? gemv_kernel(sign, tag, end)
                                              : columns_kernel(tag, end));
  };
  add(policy, {{kernel(Epilogue::kAddNorm), tokens, bytes}}, [=, this](GpuEncoder& e, int64_t n) {
    e.multiply_add_norm(packed_weight(tag, 1, n), e.quantize(timer_.x(tokens), {}),
                        timer_.y(tokens), {ones_, 1e-5f});
  });
  add(policy, {{kernel(Epilogue::kSwiglu), tokens, bytes}}, [=, this](GpuEncoder& e, int64_t n) {
    e.multiply_swiglu(packed_weight(tag, 1, n), e.quantize(timer_.x(tokens), {}));
  });
  add(policy, {{kernel(Epilogue::kQkv), tokens, bytes}}, [=, this](GpuEncoder& e, int64_t n) {
    e.multiply_qkv(packed_weight(tag, 1, n), e.quantize(timer_.x(tokens), {}),
                   {shape_, &rope_, timer_.cache(KvType::kF16), 0}, timer_.y(tokens));
  });
  if (tag != Tag::kSign) return;
  add(policy, {{kernel(Epilogue::kRank), tokens, bytes}}, [=, this](GpuEncoder& e, int64_t n) {
    e.multiply_packed(packed_weight(Tag::kFactored, 1, n), e.quantize(timer_.x(tokens), {}),
                      timer_.y(tokens), OutputMode::kOverwrite);
  });
}

void Operations::packed(Tag tag) {
  stored(tag, SignKernel::kPopcount, CallSize::kOne);
  if (tag != Tag::kTable) {
    fused(tag, SignKernel::kPopcount, CallSize::kOne);
    stored(tag, SignKernel::kPopcount, CallSize::kFew);
    fused(tag, SignKernel::kPopcount, CallSize::kFew);
  }
  if (tag == Tag::kSign) {
    stored(tag, SignKernel::kSelect, CallSize::kOne);
    fused(tag, SignKernel::kSelect, CallSize::kOne);
  }
  const int64_t tokens = tokens_of(CallSize::kPrompt, timer_);
  add(policy_of(SignKernel::kPopcount), {{std::string(gemm_kernel(tag)), tokens, words_bytes(tag)}},
      [=, this](GpuEncoder& e, int64_t n) {
        e.multiply_packed(packed_weight(tag, 1, n), e.quantize(timer_.x(tokens), {}),
                          timer_.y(tokens), OutputMode::kOverwrite);
      });
  if (tag != Tag::kSign) return;
  add(policy_of(SignKernel::kPopcount), {{"rank_codes", tokens, row_bytes(tokens)}},
      [=, this](GpuEncoder& e, int64_t n) {
        e.multiply_packed(packed_weight(Tag::kFactored, 1, n), e.quantize(timer_.x(tokens), {}),
                          timer_.y(tokens), OutputMode::kOverwrite);
      });
}

uint64_t Operations::plain_bytes(Kind kind) const {
  const auto count = static_cast<uint64_t>(rows_ * rows_);
  switch (kind) {
    case Kind::kF32:
      return 4 * count;
    case Kind::kF16:
    case Kind::kBF16:
      return 2 * count;
    case Kind::kInt8:
      return count;
    case Kind::kInt4:
      return count / 2;
    case Kind::kInt3:
      return 3 * count / 8;
    case Kind::kInt2:
      return count / 4;
    case Kind::kPacked:
    case Kind::kOpaque:
      break;
  }
  return 0;
}

GpuWeight Operations::plain_weight(Kind kind, int64_t n) const {
  GpuWeight w;
  w.kind = kind;
  w.shape = {rows_, rows_};
  w.scales_at = plain_bytes(kind);
  w.code_reach = 127;
  if (!w.is_dense()) w.group = 64;
  const uint64_t scales = w.is_dense() ? 0 : 2 * static_cast<uint64_t>(rows_ * rows_) / 64;
  w.bytes = timer_.weights(w.scales_at + scales, n);
  return w;
}

void Operations::plain(Kind kind) {
  const GpuPolicy policy = policy_of(SignKernel::kPopcount);
  for (const CallSize size : {CallSize::kOne, CallSize::kFew, CallSize::kPrompt}) {
    const int64_t tokens = tokens_of(size, timer_);
    for (const OutputMode mode : {OutputMode::kOverwrite, OutputMode::kAdd}) {
      const uint64_t bytes = plain_weight(kind, 0).bytes.bytes;
      add(policy, {{std::string(plain_kernel(kind, mode, size)), tokens, bytes}},
          [=, this](GpuEncoder& e, int64_t n) {
            const GpuWeight w = plain_weight(kind, n);
            const Tensor x = timer_.x(tokens);
            const Tensor y = timer_.y(tokens);
            if (w.is_dense()) return e.multiply_dense(w, x, {}, y, mode);
            e.multiply_groups(w, e.quantize(x, {}), {}, y, mode);
          });
    }
  }
  const uint64_t row = plain_weight(kind, 0).bytes.bytes / static_cast<uint64_t>(rows_);
  add(policy, {{std::string(embed_kernel(kind)), 1, row + row_bytes(1)}},
      [=, this](GpuEncoder& e, int64_t n) {
        e.embed(plain_weight(kind, n), timer_.token(), timer_.y(1));
      });
}

void Operations::row_operations() {
  const GpuPolicy policy = gpu_policy(0);
  const Tensor x = timer_.x(1);
  const Tensor up = timer_.x(2).rows_from(1, 1);
  const Tensor plain = timer_.y(1);
  Tensor y = plain;
  y.row_scale = y.data + rows_;
  const int64_t heads = rows_ / head_dim_;
  add(policy, {{"rms_norm", 1, row_bytes(3)}},
      [=, this](GpuEncoder& e, int64_t) { e.rms_norm(x, {ones_, 1e-5f}, y); });
  add(policy, {{"quantize", 1, row_bytes(1)}}, [=](GpuEncoder& e, int64_t) { e.quantize(x, {}); });
  add(policy, {{"rope", 1, row_bytes(2)}},
      [=, this](GpuEncoder& e, int64_t) { e.rope(rope_, 0, heads, plain); });
  add(policy, {{"swiglu", 1, row_bytes(3)}},
      [=](GpuEncoder& e, int64_t) { e.swiglu(x, up, plain); });
  add(policy, {{"argmax", 1, row_bytes(1)}}, [=](GpuEncoder& e, int64_t) { e.argmax(x); });
}

void Operations::caches(KvType type) {
  const int64_t heads = rows_ / head_dim_;
  const AttentionShape shape = {heads, heads, head_dim_};
  const int64_t last = timer_.positions() - 1;
  const KvLayer kv = timer_.cache(type);
  const Tensor k = timer_.x(1);
  const Tensor v = timer_.x(2).rows_from(1, 1);
  const Tensor y = timer_.y(1);
  const auto names = kv_kernels(type);
  const auto row = 2 * static_cast<uint64_t>(heads * kv_row_bytes(type, head_dim_));
  const uint64_t all = row * static_cast<uint64_t>(last + 1);
  add(gpu_policy(0), {{std::string(names.append), 1, row_bytes(2) + row}},
      [=](GpuEncoder& e, int64_t) { e.kv_append(shape, k, v, kv, last); });
  GpuPolicy policy = gpu_policy(0);
  policy.split_positions = last + 1;
  add(policy, {{std::string(names.attend), 1, all}},
      [=](GpuEncoder& e, int64_t) { e.attention(shape, k, kv, last, y, nullptr); });
  policy.split_positions = (last + 1) / 4;
  const uint64_t partials = row_bytes(attention_splits(policy, 1, last + 1));
  add(policy, {{std::string(names.split), 1, all}, {"attention_combine", 1, partials}},
      [=](GpuEncoder& e, int64_t) { e.attention(shape, k, kv, last, y, nullptr); });
  const int64_t block = tokens_of(CallSize::kPrompt, timer_);
  add(gpu_policy(0), {{std::string(names.blocks), block, all}}, [=, this](GpuEncoder& e, int64_t) {
    e.attention(shape, timer_.x(block), kv, last + 1 - block, timer_.y(block), nullptr);
  });
  if (type != KvType::kI8) return;
  add(gpu_policy(0), {{"rope_append_i8", 1, row_bytes(4)}},
      [=, this](GpuEncoder& e, int64_t) { e.rope_append(shape, rope_, y, k, v, kv, last - 1); });
}

bool is_hardware(KernelTimer& timer) {
  const Operations operations(timer);
  const std::string kernel(gemm_kernel(Tag::kSign));
  for (const Operation& operation : operations.all()) {
    if (operation.kernels.front().kernel != kernel) continue;
    return timer.seconds(operation.policy, kernel, operation.encode) < kHardware;
  }
  return false;
}

double bandwidth(KernelTimer& timer) {
  const uint64_t bytes = timer.is_small() ? 1 << 16 : 64 << 20;
  const shader::ReadBandwidthArgs args{static_cast<uint32_t>(bytes / 16)};
  const uint32_t groups = shader::read_groups(args.units);
  const auto encode = [&](GpuEncoder& encoder, int64_t n) {
    GpuDispatch(encoder.stream(), "read_bandwidth")
        .arguments(args)
        .read(timer.weights(bytes, n))
        .write(encoder.scratch().take(GpuScratch::kSums, 4 * groups))
        .threadgroup(4 * shader::kReadSimdgroups)
        .run({groups}, shader::kReadThreads);
  };
  return static_cast<double>(bytes) / timer.seconds(gpu_policy(0), "read_bandwidth", encode);
}

}  // namespace

KernelTimes time_kernels(const std::shared_ptr<GpuDevice>& device) {
  KernelTimer timer(device);
  if (is_hardware(timer)) {
    timer.grow();
  } else {
    timer.hurry();
  }
  KernelTimes times;
  times.rows = timer.rows();
  times.bytes_per_second = bandwidth(timer);
  const Operations operations(timer);
  for (const Operation& operation : operations.all()) {
    for (KernelTime time : operation.kernels) {
      if (std::ranges::count(times.kernels, time.kernel, &KernelTime::kernel) > 0) continue;
      try {
        time.seconds = timer.seconds(operation.policy, time.kernel, operation.encode);
        times.kernels.push_back(std::move(time));
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kDeviceUnavailable) throw;
      }
    }
  }
  return times;
}

}  // namespace subbit
