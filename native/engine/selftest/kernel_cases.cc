// The cases. Products come in every stored form, for one token, a few and a prompt; a case's other
// kernels are such as other cases show to be right, so that what is wrong can be told.
#include "selftest/kernel_cases.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/half.h"
#include "formats/groups/groups.h"
#include "formats/packed/pack.h"
#include "formats/registry.h"

namespace subbit {
namespace {

using Kinds = std::vector<std::string_view>;

/// Where both sides compute from the same codes only a float's last bits differ, by 1e-6 and, of
/// halves in a cache, now and then by 2^-11. A column left out of 256 is 1/16.
constexpr double kTight = 4e-3;
/// Where a result was quantized on the way, a right kernel may move a code: a chunk's largest of
/// silu(g) * u is six times their root mean square, a step at most a 64th of that, a column one of
/// 44, a row's scale 2.5: 0.035. A column left out is 0.15.
constexpr double kLoose = 6e-2;

constexpr int64_t kFloats = 1 << 17;
constexpr int64_t kRows = 37;
constexpr int64_t kColumns = 172;  // of a last chunk with a pad
constexpr int64_t kBlocks = 256;   // the shortest row of code84
constexpr int64_t kGrouped = 160;  // groups of 32
constexpr int64_t kHidden = 76;    // rows that become codes again: quads, and a part of a chunk
constexpr int64_t kFfn = 44;
constexpr int64_t kRank = 64;
constexpr int64_t kTableWidth = 8;
constexpr int64_t kFew = 3;
constexpr int64_t kPrompt = 33;  // a tile of tokens and one
constexpr AttentionShape kHeads = {2, 1, 32};

/// A weight and the bytes it views.
struct Stored {
  std::vector<std::byte> bytes;
  std::vector<int8_t> table;
  TensorView table_view;
  std::unique_ptr<Weight> weight;
};

std::vector<float> random_floats(int64_t count, Rng& rng) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = rng.normal();
  return values;
}

SignMatrix random_signs(int64_t rows, int64_t columns, Rng& rng) {
  SignMatrix signs{rows, columns, std::vector<uint8_t>(static_cast<size_t>(rows * columns))};
  for (uint8_t& bit : signs.bits) bit = rng.next() & 1;
  return signs;
}

PackedTerm random_term(std::string_view kind, Shape shape, Rng& rng) {
  PackedTerm term;
  const TermKind* found = find_term_kind(kind);
  CHECK(found != nullptr);
  term.kind = found->tag();
  term.columns = shape.cols;
  term.gain = 0.3f;
  if (kind == "sign") term.matrices = {random_signs(shape.rows, shape.cols, rng)};
  if (kind == "code84") term.matrices = {random_signs(shape.rows, shape.cols / 2, rng)};
  if (kind == "factored") {
    term.rank = kRank;
    term.s_mid = random_floats(kRank, rng);
    term.matrices = {random_signs(kRank, shape.cols, rng), random_signs(shape.rows, kRank, rng)};
  }
  if (kind == "table") {
    term.table_width = kTableWidth;
    const int64_t vectors = vectors_of(shape.cols, kTableWidth);
    term.indices = {shape.rows, vectors, {}};
    term.indices.values.resize(static_cast<size_t>(shape.rows * vectors));
    for (uint8_t& index : term.indices.values) index = static_cast<uint8_t>(rng.next());
  }
  return term;
}

std::shared_ptr<const Weight> owned(std::shared_ptr<Stored> stored) {
  const Weight* weight = stored->weight.get();
  return {std::move(stored), weight};
}

enum class OwnScales { kNone, kPreScale };

std::shared_ptr<const Weight> packed(Shape shape, const Kinds& kinds,
                                     OwnScales scales = OwnScales::kNone) {
  Rng rng(static_cast<uint64_t>(shape.rows));
  PackedLinear linear;
  linear.shape = shape;
  linear.s_post = random_floats(shape.rows, rng);
  linear.bias = random_floats(shape.rows, rng);
  if (scales == OwnScales::kPreScale) linear.s_pre = random_floats(shape.cols, rng);
  for (const std::string_view kind : kinds) linear.terms.push_back(random_term(kind, shape, rng));
  auto stored = std::make_shared<Stored>();
  stored->bytes = pack(linear);
  stored->table.resize(256 * kTableWidth);
  for (int8_t& entry : stored->table) {
    entry = static_cast<int8_t>(static_cast<int>(rng.next() % 255) - 127);
  }
  stored->table_view = {
      "table", DType::kI8, {256, kTableWidth}, std::as_bytes(std::span(stored->table))};
  const TensorView tensor = {
      "packed", DType::kU8, {std::ssize(stored->bytes)}, std::span(stored->bytes)};
  const Stored* kept = stored.get();
  stored->weight = find_format("packed")->view(
      tensor, shape, [kept](int) -> const TensorView* { return &kept->table_view; });
  return owned(std::move(stored));
}

/// Floats of so many bits, or groups of so many.
struct Plain {
  const char* name;
  DType type = DType::kU8;
  int group_bits = 0;
};
constexpr Plain kPlain[] = {{"f32", DType::kF32, 0},   {"f16", DType::kF16, 0},
                            {"bf16", DType::kBF16, 0}, {"int2", DType::kU8, 2},
                            {"int3", DType::kU8, 3},   {"int4", DType::kU8, 4},
                            {"int8", DType::kU8, 8}};

template <typename To, typename Convert>
std::vector<std::byte> as_stored(const std::vector<float>& values, const Convert& convert) {
  std::vector<To> stored;
  for (const float value : values) stored.push_back(convert(value));
  const auto bytes = std::as_bytes(std::span(stored));
  return {bytes.begin(), bytes.end()};
}

std::shared_ptr<const Weight> plain(const Plain& form) {
  Rng rng(2);
  auto stored = std::make_shared<Stored>();
  const Shape shape = {kRows, form.group_bits == 0 ? kColumns : kGrouped};
  if (form.group_bits != 0) {
    const GroupCoding* coding = find_group_coding(form.group_bits);
    CHECK(coding != nullptr);
    stored->bytes = random_groups(*coding, shape, 1.0f, 3);
    const TensorView tensor = {
        "groups", DType::kU8, {std::ssize(stored->bytes)}, std::span(stored->bytes)};
    stored->weight = find_format(coding->name)->view(tensor, shape);
    return owned(std::move(stored));
  }
  const std::vector<float> values = random_floats(shape.count(), rng);
  if (form.type == DType::kF32) {
    stored->bytes = as_stored<float>(values, [](float value) { return value; });
  } else if (form.type == DType::kF16) {
    stored->bytes = as_stored<Half>(values, [](float value) { return to_half(value); });
  } else {
    stored->bytes = as_stored<BFloat16>(values, [](float value) { return to_bfloat16(value); });
  }
  const TensorView tensor = {
      "floats", form.type, {shape.rows, shape.cols}, std::span(stored->bytes)};
  stored->weight = find_format("dense")->view(tensor, shape);
  return owned(std::move(stored));
}

std::shared_ptr<const Linear> linear_of(std::shared_ptr<const Weight> weight,
                                        std::vector<float> bias = {}) {
  auto linear = std::make_shared<Linear>();
  linear->shape = weight->shape();
  linear->parts.push_back({std::move(weight), std::move(bias)});
  return linear;
}

int64_t columns_of(const Kinds& kinds) {
  return std::ranges::find(kinds, "code84") == kinds.end() ? kColumns : kBlocks;
}

std::string list(const Kinds& kinds) {
  std::string text;
  for (const std::string_view kind : kinds) text += (text.empty() ? "" : " + ") + std::string(kind);
  return text;
}

std::string counted(int64_t tokens) {
  return tokens == 1 ? ", 1 token" : ", " + std::to_string(tokens) + " tokens";
}

GpuPolicy with(SignKernel sign, PromptKernel prompt) {
  GpuPolicy policy = gpu_policy(0);
  policy.sign_kernel = sign;
  policy.prompt_kernel = prompt;
  return policy;
}

class Cases {
 public:
  std::vector<KernelCase> take() && { return std::move(all_); }

  void products() {
    const GpuPolicy popcount = with(SignKernel::kPopcount, PromptKernel::kColumns);
    const GpuPolicy select = with(SignKernel::kSelect, PromptKernel::kColumns);
    const GpuPolicy matrices = with(SignKernel::kPopcount, PromptKernel::kMatrix);
    for (const Kinds& kinds :
         {Kinds{"sign"}, Kinds{"factored"}, Kinds{"code84"}, Kinds{"table"}, Kinds{"sign", "sign"},
          Kinds{"code84", "sign"}, Kinds{"table", "sign"}, Kinds{"factored", "code84"}}) {
      const auto linear = linear_of(packed({kRows, columns_of(kinds)}, kinds));
      for (const int64_t tokens : {int64_t{1}, kFew})
        product(list(kinds), linear, popcount, tokens);
      product(list(kinds) + " by matrices", linear, matrices, kPrompt);
      if (kinds[0] == "code84" || kinds[0] == "table") continue;
      product(list(kinds) + " by select", linear, select, 1);
    }
    const auto scaled = linear_of(packed({kRows, kColumns}, {"sign"}, OwnScales::kPreScale));
    product("sign with scales of its own", scaled, popcount, 1);
    Rng rng(4);
    for (const Plain& form : kPlain) {
      const auto linear = linear_of(plain(form), random_floats(kRows, rng));
      for (const int64_t tokens : {int64_t{1}, kFew, kPrompt}) {
        product(form.name, linear, popcount, tokens);
      }
    }
  }

  void fused_ends() {
    const GpuPolicy popcount = with(SignKernel::kPopcount, PromptKernel::kColumns);
    const GpuPolicy select = with(SignKernel::kSelect, PromptKernel::kColumns);
    for (const Kinds& kinds : {Kinds{"sign"}, Kinds{"code84"}}) {
      for (const int64_t tokens : {int64_t{1}, kFew}) ends_of(kinds, popcount, tokens, "");
    }
    ends_of({"sign"}, select, 1, " by select");
  }

  void rows();
  void embeddings();
  void caches();

 private:
  void add(std::string name, const GpuPolicy& policy, std::function<void(Backend&, Scene&)> run) {
    all_.push_back({std::move(name), policy, std::move(run)});
  }
  void product(const std::string& name, const std::shared_ptr<const Linear>& linear,
               const GpuPolicy& policy, int64_t tokens);
  void ends_of(const Kinds& kinds, const GpuPolicy& policy, int64_t tokens, const std::string& how);

  std::vector<KernelCase> all_;
};

void Cases::product(const std::string& name, const std::shared_ptr<const Linear>& linear,
                    const GpuPolicy& policy, int64_t tokens) {
  const Shape shape = linear->shape;
  add(name + counted(tokens), policy, [=](Backend& backend, Scene& scene) {
    const Tensor x = scene.tensor(tokens, shape.cols);
    const Tensor y = scene.tensor(tokens, shape.rows);
    backend.linear(*linear, x, y);
    scene.expect(y, kTight);
  });
  add(name + " added" + counted(tokens), policy, [=](Backend& backend, Scene& scene) {
    const Tensor x = scene.tensor(tokens, shape.cols);
    const Tensor y = scene.tensor(tokens, shape.rows);
    backend.linear_add(*linear, x, y);
    scene.expect(y, kTight);
  });
}

std::shared_ptr<const RopeTable> rope_table(int64_t head_dim, int64_t positions) {
  auto table = std::make_shared<RopeTable>();
  Rng rng(5);
  table->half_dim = head_dim / 2;
  table->positions = positions;
  table->cosine = random_floats(table->half_dim * positions, rng);
  table->sine = random_floats(table->half_dim * positions, rng);
  return table;
}

std::shared_ptr<const std::vector<float>> norm_weight(int64_t columns) {
  Rng rng(6);
  return std::make_shared<const std::vector<float>>(random_floats(columns, rng));
}

void Cases::ends_of(const Kinds& kinds, const GpuPolicy& policy, int64_t tokens,
                    const std::string& how) {
  const std::string name = list(kinds) + how;
  const int64_t columns = columns_of(kinds);
  const auto into_sum = linear_of(packed({kHidden, columns}, kinds));
  const auto after_sum = linear_of(packed({kRows, kHidden}, {"sign"}));
  const auto norm = norm_weight(kHidden);
  add(name + " into a sum and a norm" + counted(tokens), policy,
      [=](Backend& backend, Scene& scene) {
        const Tensor h = scene.tensor(tokens, kHidden);
        const Tensor normed = scene.scaled_tensor(tokens, kHidden);
        const Tensor y = scene.tensor(tokens, kRows);
        backend.linear_add(*into_sum, scene.tensor(tokens, columns), h);
        backend.rms_norm(h, *norm, 1e-5f, normed);
        backend.linear(*after_sum, normed, y);
        scene.expect(h, kTight);
        scene.expect(y, kLoose);
      });
  const auto into_gates = linear_of(packed({2 * kFfn, columns}, kinds));
  const auto after_gates = linear_of(packed({kRows, kFfn}, {"sign"}));
  add(name + " into swiglu" + counted(tokens), policy, [=](Backend& backend, Scene& scene) {
    const Tensor both = scene.tensor(tokens, 2 * kFfn);
    const Tensor out = scene.tensor(tokens, kFfn);
    const Tensor y = scene.tensor(tokens, kRows);
    backend.linear(*into_gates, scene.tensor(tokens, columns), both);
    backend.swiglu(both.columns(0, kFfn), both.columns(kFfn, kFfn), out);
    backend.linear(*after_gates, out, y);
    scene.expect(y, kLoose);
  });
  const int64_t q = kHeads.heads * kHeads.head_dim;
  const int64_t kv = kHeads.kv_heads * kHeads.head_dim;
  const auto into_heads = linear_of(packed({q + 2 * kv, columns}, kinds));
  const auto rope = rope_table(kHeads.head_dim, tokens);
  for (const KvType type : {KvType::kF32, KvType::kF16}) {
    add(name + " into heads and cache" + counted(tokens), policy,
        [=](Backend& backend, Scene& scene) {
          const Tensor y = scene.tensor(tokens, q + 2 * kv);
          const Tensor out = scene.tensor(tokens, q);
          const KvLayer cache = scene.cache(type, kHeads.kv_heads, kHeads.head_dim, tokens + 2);
          backend.linear(*into_heads, scene.tensor(tokens, columns), y);
          backend.rope(*rope, 0, kHeads.heads, y.columns(0, q));
          backend.rope(*rope, 0, kHeads.kv_heads, y.columns(q, kv));
          backend.attention(kHeads, y.columns(0, q), y.columns(q, kv), y.columns(q + kv, kv), cache,
                            0, out);
          scene.expect(out, kTight);
        });
  }
}

void Cases::rows() {
  const GpuPolicy policy = gpu_policy(0);
  const auto norm = norm_weight(kColumns);
  add("a norm", policy, [=](Backend& backend, Scene& scene) {
    const Tensor out = scene.scaled_tensor(kFew, kColumns);
    backend.rms_norm(scene.tensor(kFew, kColumns), *norm, 1e-5f, out);
    scene.expect(out, kTight);
    scene.expect({out.row_scale, 1, kFew, kFew, nullptr}, kTight);
  });
  const auto rope = rope_table(kHeads.head_dim, kFew + 1);
  add("a rotation", policy, [=](Backend& backend, Scene& scene) {
    const Tensor x = scene.tensor(kFew, kHeads.heads * kHeads.head_dim);
    backend.rope(*rope, 1, kHeads.heads, x);
    scene.expect(x, kTight);
  });
  add("swiglu", policy, [](Backend& backend, Scene& scene) {
    const Tensor out = scene.tensor(kFew, kColumns);
    backend.swiglu(scene.tensor(kFew, kColumns), scene.tensor(kFew, kColumns), out);
    scene.expect(out, kTight);
  });
  add("the largest logit", policy,
      [](Backend& backend, Scene& scene) { backend.argmax(scene.tensor(1, 1000), scene.index); });
  const auto linear = linear_of(packed({kRows, kColumns}, {"sign"}));
  add("a norm into codes", policy, [=](Backend& backend, Scene& scene) {
    const Tensor normed = scene.scaled_tensor(kFew, kColumns);
    const Tensor y = scene.tensor(kFew, kRows);
    backend.rms_norm(scene.tensor(kFew, kColumns), *norm, 1e-5f, normed);
    backend.linear(*linear, normed, y);
    scene.expect(y, kLoose);
  });
  add("swiglu into codes", policy, [=](Backend& backend, Scene& scene) {
    const Tensor both = scene.tensor(kFew, 2 * kColumns);
    const Tensor out = scene.tensor(kFew, kColumns);
    const Tensor y = scene.tensor(kFew, kRows);
    backend.swiglu(both.columns(0, kColumns), both.columns(kColumns, kColumns), out);
    backend.linear(*linear, out, y);
    scene.expect(y, kLoose);
  });
}

void Cases::embeddings() {
  for (const Plain& form : kPlain) {
    const std::shared_ptr<const Weight> table = plain(form);
    add(std::string("an embedding of ") + form.name, gpu_policy(0),
        [=](Backend& backend, Scene& scene) {
          const int32_t tokens[] = {kRows - 1, 0, 17};
          const Tensor h = scene.tensor(kFew, table->shape().cols);
          backend.embed(*table, tokens, h);
          scene.expect(h, kTight);
        });
  }
}

void Cases::caches() {
  constexpr int64_t kAtOnce = 7;  // fewer than a prompt, several times over
  const auto call = [](Backend& backend, Scene& scene, const AttentionShape& shape,
                       const KvLayer& cache, int64_t first, int64_t tokens) {
    const int64_t q = shape.heads * shape.head_dim;
    const int64_t kv = shape.kv_heads * shape.head_dim;
    const Tensor out = scene.tensor(tokens, q);
    backend.attention(shape, scene.tensor(tokens, q), scene.tensor(tokens, kv),
                      scene.tensor(tokens, kv), cache, first, out);
    scene.expect(out, cache.type == KvType::kI8 ? kLoose : kTight);
  };
  const AttentionShape odd = {4, 2, 40};
  GpuPolicy split = gpu_policy(0);
  split.split_positions = 2 * kAtOnce - 1;
  for (const auto& [type, name] : {std::pair(KvType::kF32, "f32"), std::pair(KvType::kF16, "f16"),
                                   std::pair(KvType::kI8, "int8")}) {
    const std::string over = std::string(" over a cache of ") + name;
    add("attention" + over, gpu_policy(0), [=, type = type](Backend& backend, Scene& scene) {
      const KvLayer cache = scene.cache(type, odd.kv_heads, odd.head_dim, 5 * kAtOnce + 1);
      for (int64_t i = 0; i < 5; ++i) call(backend, scene, odd, cache, i * kAtOnce, kAtOnce);
    });
    add("attention in parts" + over, split, [=, type = type](Backend& backend, Scene& scene) {
      const KvLayer cache = scene.cache(type, odd.kv_heads, odd.head_dim, 2 * kAtOnce + 1);
      for (int64_t i = 0; i < 2; ++i) call(backend, scene, odd, cache, i * kAtOnce, kAtOnce);
      call(backend, scene, odd, cache, 2 * kAtOnce, 1);
    });
    add("a prompt's attention" + over, gpu_policy(0),
        [=, type = type](Backend& backend, Scene& scene) {
          const KvLayer cache = scene.cache(type, odd.kv_heads, odd.head_dim, kPrompt + 3);
          call(backend, scene, odd, cache, 0, kPrompt);
        });
  }
  const auto rope = rope_table(kHeads.head_dim, kFew);
  add("rotations into a cache of int8", gpu_policy(0), [=](Backend& backend, Scene& scene) {
    const int64_t q = kHeads.heads * kHeads.head_dim;
    const int64_t kv = kHeads.kv_heads * kHeads.head_dim;
    const Tensor y = scene.tensor(kFew, q + 2 * kv);
    const Tensor out = scene.tensor(kFew, q);
    const KvLayer cache = scene.cache(KvType::kI8, kHeads.kv_heads, kHeads.head_dim, kFew);
    backend.rope(*rope, 0, kHeads.heads, y.columns(0, q));
    backend.rope(*rope, 0, kHeads.kv_heads, y.columns(q, kv));
    backend.attention(kHeads, y.columns(0, q), y.columns(q, kv), y.columns(q + kv, kv), cache, 0,
                      out);
    scene.expect(out, kLoose);
  });
  const auto after = linear_of(packed({kRows, kHeads.heads * kHeads.head_dim}, {"sign"}));
  add("attention into codes", gpu_policy(0), [=](Backend& backend, Scene& scene) {
    const int64_t q = kHeads.heads * kHeads.head_dim;
    const int64_t kv = kHeads.kv_heads * kHeads.head_dim;
    const KvLayer cache = scene.cache(KvType::kF16, kHeads.kv_heads, kHeads.head_dim, kFew);
    const Tensor out = scene.tensor(kFew, q);
    const Tensor y = scene.tensor(kFew, kRows);
    backend.attention(kHeads, scene.tensor(kFew, q), scene.tensor(kFew, kv), scene.tensor(kFew, kv),
                      cache, 0, out);
    backend.linear(*after, out, y);
    scene.expect(y, kLoose);
  });
}

}  // namespace

Scene::Scene() : memory_(kFloats) {
  // A cache's rows that nobody has written are nothing.
  std::fill_n(memory_.data(), memory_.size(), 0.0f);
}

float* Scene::take(int64_t floats) {
  float* begin = memory_.data() + used_;
  used_ += (floats + 3) / 4 * 4;  // kernels read 16 bytes at a time
  CHECK(used_ <= memory_.size());
  return begin;
}

Tensor Scene::tensor(int64_t rows, int64_t columns) {
  const Tensor tensor = {take(rows * columns), rows, columns, columns, nullptr};
  for (int64_t i = 0; i < rows * columns; ++i) tensor.data[i] = rng_.normal();
  return tensor;
}

Tensor Scene::scaled_tensor(int64_t rows, int64_t columns) {
  Tensor tensor = this->tensor(rows, columns);
  tensor.row_scale = take(rows);
  std::fill_n(tensor.row_scale, rows, 1.0f);
  return tensor;
}

KvLayer Scene::cache(KvType type, int64_t heads, int64_t head_dim, int64_t capacity) {
  const int64_t floats = (heads * capacity * kv_row_bytes(type, head_dim) + 3) / 4;
  float* keys = take(floats);
  return {type, keys, take(floats), capacity};
}

std::vector<KernelCase> kernel_cases() {
  Cases cases;
  cases.products();
  cases.fused_ends();
  cases.rows();
  cases.embeddings();
  cases.caches();
  return std::move(cases).take();
}

}  // namespace subbit
