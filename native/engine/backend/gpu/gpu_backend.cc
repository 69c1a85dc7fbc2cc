// Noting steps, and running them.
#include "backend/gpu/gpu_backend.h"

#include <cstring>
#include <utility>
#include <vector>

#include "backend/gpu/encoder.h"
#include "backend/gpu/plan.h"
#include "base/check.h"
#include "base/error.h"
#include "formats/format.h"
#include "metal/attention.h"
#include "metal/qvec.h"

namespace subbit {
namespace {

class GpuBackendImpl final : public GpuBackend {
 public:
  GpuBackendImpl(std::shared_ptr<GpuDevice> device, const GpuPolicy& policy)
      : device_(std::move(device)),
        policy_(policy),
        encoder_(*device_, policy),
        planner_(encoder_) {}

  void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) override;
  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override;
  void linear(const Linear& linear, Tensor x, Tensor y) override {
    add_linear(GpuStep::Kind::kLinear, linear, x, y);
  }
  void linear_add(const Linear& linear, Tensor x, Tensor y) override {
    add_linear(GpuStep::Kind::kLinearAdd, linear, x, y);
  }
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override;
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override;
  void swiglu(Tensor gate, Tensor up, Tensor out) override;
  void argmax(Tensor logits, int32_t& index) override;
  void finish() override { run(Rest::kNone); }
  void discard() override { forget(); }
  void share(std::span<const std::byte> pages) override { encoder_.map().share(pages); }
  void unshare(std::span<const std::byte> pages) override {
    discard();
    encoder_.map().unshare(pages);
  }
  GpuCounts counts() const override { return counts_; }

 private:
  GpuStep& add(GpuStep::Kind kind);
  void add_linear(GpuStep::Kind kind, const Linear& linear, Tensor x, Tensor y);
  void run(Rest rest);
  void check_status();
  void forget() {
    steps_.clear();
    work_ = 0;
    likeliest_ = nullptr;
  }

  std::shared_ptr<GpuDevice> device_;
  GpuPolicy policy_;
  GpuEncoder encoder_;
  GpuPlanner planner_;
  std::vector<GpuStep> steps_;
  double work_ = 0;               // of steps_: weights times tokens
  int32_t* likeliest_ = nullptr;  // where what steps_ end in is wanted
  std::unique_ptr<GpuMemory> tokens_;
  GpuCounts counts_;
};

GpuStep& GpuBackendImpl::add(GpuStep::Kind kind) {
  steps_.emplace_back();
  steps_.back().kind = kind;
  return steps_.back();
}

void GpuBackendImpl::embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) {
  // What is left over belongs to a chunk of the prompt whose logits nobody wanted; its keys and
  // values count.
  run(Rest::kNone);
  if (tokens.empty()) return;
  if (tokens_ == nullptr || tokens_->bytes().size() < tokens.size_bytes()) {
    tokens_ = device_->allocate((tokens.size_bytes() + 255) / 256 * 256);
  }
  std::memcpy(tokens_->bytes().data(), tokens.data(), tokens.size_bytes());
  GpuStep& step = add(GpuStep::Kind::kEmbed);
  step.table = &table;
  step.tokens = {tokens_.get(), 0, tokens.size_bytes()};
  step.out = h;
}

void GpuBackendImpl::rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) {
  CHECK(out.row_scale != nullptr && x.cols == out.cols && x.rows == out.rows);
  // A norm begins half a block: little more than the residual stream is alive. The cut costs the
  // fusion of this norm with the sum before it.
  if (work_ > policy_.buffer_work) run(Rest::kFollows);
  GpuStep& step = add(GpuStep::Kind::kRmsNorm);
  step.in = x;
  step.norm = {weight, eps};
  step.out = out;
}

void GpuBackendImpl::add_linear(GpuStep::Kind kind, const Linear& linear, Tensor x, Tensor y) {
  CHECK(x.rows == y.rows && x.cols == linear.shape.cols && y.cols == linear.shape.rows);
  if (x.rows == 0) return;
  for (const Linear::Part& part : linear.parts) {
    work_ += 8.0 * static_cast<double>(part.weight->packed_bytes()) * static_cast<double>(x.rows);
  }
  GpuStep& step = add(kind);
  step.linear = &linear;
  step.in = x;
  step.out = y;
}

void GpuBackendImpl::rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) {
  if (x.rows == 0) return;
  CHECK(x.cols == 2 * heads * table.half_dim && first_position + x.rows <= table.positions);
  GpuStep& step = add(GpuStep::Kind::kRope);
  step.rope = &table;
  step.first_position = first_position;
  step.heads = heads;
  step.in = x;
  step.out = x;
}

void GpuBackendImpl::attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v,
                               const KvLayer& kv, int64_t first_position, Tensor out) {
  if (q.rows == 0) return;
  CHECK(first_position + q.rows <= kv.capacity && k.rows == q.rows && v.rows == q.rows);
  // A score and a weighted value for each position: about a sign's product each.
  work_ +=
      2.0 * static_cast<double>(q.cols * q.rows) * static_cast<double>(first_position + q.rows);
  GpuStep& step = add(GpuStep::Kind::kAttention);
  step.shape = shape;
  step.in = q;
  step.in2 = k;
  step.in3 = v;
  step.kv = kv;
  step.first_position = first_position;
  step.out = out;
}

void GpuBackendImpl::swiglu(Tensor gate, Tensor up, Tensor out) {
  if (gate.rows == 0) return;
  GpuStep& step = add(GpuStep::Kind::kSwiglu);
  step.in = gate;
  step.in2 = up;
  step.out = out;
}

void GpuBackendImpl::argmax(Tensor logits, int32_t& index) {
  CHECK(logits.rows == 1 && logits.row_scale == nullptr && likeliest_ == nullptr);
  GpuStep& step = add(GpuStep::Kind::kArgmax);
  step.in = logits;
  likeliest_ = &index;
}

void GpuBackendImpl::run(Rest rest) {
  if (steps_.empty()) return;
  GpuStream& stream = encoder_.stream();
  stream.commands = &device_->begin();
  // Whatever happens, these steps are done with.
  struct Clear {
    GpuBackendImpl& self;
    ~Clear() {
      self.forget();
      self.encoder_.stream().commands->drop();
      self.encoder_.stream().commands = nullptr;
      self.encoder_.stream().hazards.clear();
    }
  } const clear{*this};
  encoder_.clear_status();
  planner_.encode(steps_, rest);
  stream.commands->run();
  encoder_.scratch().drop_outgrown();
  ++counts_.command_buffers;
  counts_.dispatches = stream.dispatches;
  counts_.barriers = stream.barriers;
  counts_.scratch_bytes = encoder_.scratch().bytes();
  counts_.copied_bytes = encoder_.map().copied_bytes();
  counts_.mapped_bytes = encoder_.map().mapped_bytes();
  check_status();
  if (likeliest_ != nullptr) *likeliest_ = encoder_.likeliest();
}

void GpuBackendImpl::check_status() {
  const uint32_t status = encoder_.status();
  if ((status & shader::kStatusNonFinite) != 0) {
    throw Error(ErrorCode::kNonFinite, "an activation is not a finite number");
  }
  if ((status & shader::kStatusScale) != 0) {
    throw Error(ErrorCode::kNonFinite, "the scale of a linear's output is not a normal number");
  }
  if ((status & shader::kStatusLogit) != 0) {
    throw Error(ErrorCode::kNonFinite, "a logit is not a finite number");
  }
}

}  // namespace

uint64_t gpu_bytes(const BackendWork& work) {
  const auto count = [](int64_t number) { return static_cast<uint64_t>(number); };
  const uint64_t tokens = count(work.tokens);
  const auto chunks = shader::chunks_of_columns(static_cast<uint32_t>(work.widest_codes));
  // Three inputs may be alive at once, and a slot that grows keeps its old memory for a pass.
  const uint64_t codes = 3 * 2 * 4 * uint64_t{shader::qvec_words(chunks)} * tokens;
  const uint64_t sums = 2 * 4 * (count(work.term_sums) + PlannedMatrix::kMostHeldTerms) * tokens;
  const uint64_t splits = GpuPolicy().most_splits;
  const uint64_t partials = 2 * 4 * count(work.heads) * splits *
                            shader::partial_floats(static_cast<uint32_t>(work.head_dim));
  // Copies lie in blocks of a mebibyte or, where one is longer, of its own length; what is left of
  // a block when the next is begun is less than what comes next.
  constexpr uint64_t kBlockBytes = uint64_t{1} << 20;
  const uint64_t constants = 2 * work.constant_bytes + 2 * kBlockBytes;
  return codes + sums + partials + constants + kAssumedDriverBytes;
}

std::unique_ptr<GpuBackend> make_gpu_backend(std::shared_ptr<GpuDevice> device,
                                             const GpuPolicy& policy) {
  return std::make_unique<GpuBackendImpl>(std::move(device), policy);
}

}  // namespace subbit
