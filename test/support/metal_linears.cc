// Building packed linears and their dispatches.
#include "support/metal_linears.h"

#include <cmath>

#include "formats/registry.h"
#include "formats/signs/layout.h"
#include "formats/signs/loaded_codes.h"

namespace subbit::test {
namespace {

template <typename T>
ExactBuffer<T> or_one(std::span<const T> values) {
  return values.empty() ? ExactBuffer<T>(1) : ExactBuffer<T>(values);
}

/// Of a matrix whose rows and columns are all of its input.
shader::GemvArgs whole_matrix(uint32_t rows, uint32_t columns) {
  shader::GemvArgs args{};
  args.rows = rows;
  args.chunks = shader::chunks_of_columns(columns);
  args.input_chunks = args.chunks;
  args.headroom = static_cast<uint32_t>(headroom_bits(columns));
  args.lanes_log2 = shader::gemv_lanes_log2(args.chunks);
  args.pair_quads = 1;
  return args;
}

const TermView& only_term(const Packed& packed) { return packed.view.terms[0].view; }

size_t v_bytes(const TermView& term) { return sign_bytes(term.shape.rank, term.shape.columns); }

}  // namespace

SignMatrix random_signs(int64_t rows, int64_t cols, uint64_t seed) {
  Rng rng(seed);
  SignMatrix signs{rows, cols, std::vector<uint8_t>(static_cast<size_t>(rows * cols))};
  for (uint8_t& bit : signs.bits) bit = rng.next() & 1;
  return signs;
}

std::vector<float> make_values(size_t count, Values kind, uint64_t seed) {
  std::vector<float> values = random_floats(count, seed);
  for (size_t j = 0; j < count; ++j) {
    if (kind == Values::kLargest) values[j] = values[j] < 0 ? -127.0f : 127.0f;
    if (kind == Values::kSpread) values[j] = std::ldexp(values[j], -static_cast<int>(j / 32 % 21));
  }
  return values;
}

Packed make_packed(const PackedLinear& linear) {
  Packed packed;
  packed.bytes = pack(linear);
  packed.view = parse_packed(packed.bytes, "test");
  const TensorView tensor{"test.packed", DType::kU8, {std::ssize(packed.bytes)}, packed.bytes};
  packed.weight = find_format("packed")->view(tensor, linear.shape);
  return packed;
}

PackedLinear factored(Shape shape, int64_t rank, Extras extras, uint64_t seed) {
  PackedLinear linear;
  linear.shape = shape;
  linear.s_post = random_floats(static_cast<size_t>(shape.rows), 7 + seed);
  PackedTerm term;
  term.kind = find_term_kind("factored")->tag();
  term.rank = rank;
  term.columns = shape.cols;
  term.gain = 0.0123f;
  term.matrices = {random_signs(rank, shape.cols, 8 + seed),
                   random_signs(shape.rows, rank, 9 + seed)};
  if (extras == Extras::kBiasAndMidScale) {
    term.s_mid = random_floats(static_cast<size_t>(rank), 10 + seed);
    linear.bias = random_floats(static_cast<size_t>(shape.rows), 11 + seed);
  }
  linear.terms.push_back(std::move(term));
  return linear;
}

Dispatch gemv_dispatch(const std::string& kernel, const shader::GemvArgs& args, uint32_t threads,
                       uint32_t tokens) {
  const uint32_t at_once =
      kernel.find("_columns_") == std::string::npos ? 1u : uint32_t{shader::kColumnTokens};
  Dispatch dispatch;
  dispatch.kernel = kernel;
  dispatch.grid = {shader::gemv_groups(args.rows, threads, args.lanes_log2),
                   (tokens + at_once - 1) / at_once};
  dispatch.threads = {threads};
  dispatch.threadgroup_bytes = {at_once * shader::gemv_threadgroup_bytes(threads, args.lanes_log2)};
  return dispatch;
}

TwoStages::TwoStages(const Packed& packed, const std::vector<uint32_t>& qvecs, uint32_t count)
    : tokens(count),
      rank(static_cast<uint32_t>(only_term(packed).shape.rank)),
      columns(static_cast<uint32_t>(only_term(packed).shape.columns)),
      v(only_term(packed).words.first(v_bytes(only_term(packed)))),
      u(only_term(packed).words.subspan(v_bytes(only_term(packed)))),
      input(qvecs),
      rank_qvecs(size_t{count} * shader::qvec_words(rank / 32)),
      status(1, 0u),
      s_mid(or_one(only_term(packed).s_mid)),
      s_post(packed.view.s_post),
      bias(or_one(packed.view.bias)),
      second(whole_matrix(static_cast<uint32_t>(packed.view.shape.rows), rank)) {
  epilogue.gain = only_term(packed).gain;
  if (!packed.view.bias.empty()) epilogue.flags = shader::kEpilogueBias;
  epilogue.y_stride = second.rows;
}

void TwoStages::run_first(const std::string& prefix) {
  shader::GemvArgs args = whole_matrix(rank, columns);
  shader::EpilogueArgs between{};
  if (s_mid.size() == rank) between.flags = shader::kEpilogueMidScale;
  args.tokens = tokens;
  Dispatch dispatch = gemv_dispatch(prefix + "_rank", args, shader::kGemvThreads, tokens);
  dispatch.buffers = {bytes_of(args),  bytes_of(between),    v.binding(),     input.binding(),
                      s_mid.binding(), rank_qvecs.binding(), status.binding()};
  run_in_every_order(dispatch, {5, 6});
}

void TwoStages::run_second(const std::string& kernel, uint32_t threads,
                           const std::vector<Binding>& targets, std::vector<size_t> outputs) {
  std::vector<Binding> buffers = {bytes_of(second),     bytes_of(epilogue), u.binding(),
                                  rank_qvecs.binding(), s_post.binding(),   bias.binding()};
  buffers.insert(buffers.end(), targets.begin(), targets.end());
  outputs.push_back(buffers.size());
  buffers.push_back(status.binding());
  second.tokens = tokens;
  Dispatch dispatch = gemv_dispatch(kernel, second, threads, tokens);
  dispatch.buffers = buffers;
  run_in_every_order(dispatch, outputs);
}

std::vector<float> cpu_linear(const Packed& packed, const QuantizedRows& codes,
                              const std::vector<float>& rho, std::vector<float> y,
                              OutputMode mode) {
  const int64_t tokens = codes.rows;
  std::vector<float> unread(static_cast<size_t>(tokens * codes.cols));
  const LinearInput in{ConstMatrix(unread.data(), tokens, codes.cols),
                       rho.empty() ? nullptr : rho.data(), &codes};
  ThreadPool pool(1);
  packed.weight->multiply(in, Matrix(y.data(), tokens, packed.view.shape.rows), mode, pool);
  return y;
}

std::span<const uint32_t> bits_of(const std::vector<float>& values) {
  return {reinterpret_cast<const uint32_t*>(values.data()), values.size()};
}

}  // namespace subbit::test
