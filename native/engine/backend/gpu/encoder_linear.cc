// Linear layers as dispatches: every stored format, and the fused ends of packed ones.
#include <bit>

#include "backend/gpu/arguments.h"
#include "backend/gpu/encoder.h"
#include "base/check.h"
#include "formats/signs/layout.h"
#include "formats/signs/loaded_codes.h"
#include "metal/dense.h"
#include "metal/gemm.h"
#include "metal/groups.h"
#include "metal/linear.h"

namespace subbit {
namespace {

using Tag = StoredWeight::TermTag;

/// What a kernel of weights that are not packed is run with.
void run_plain(GpuDispatch& dispatch, CallSize size, int64_t rows, int64_t tokens) {
  static_assert(uint32_t{shader::kDenseRows} == uint32_t{shader::kGroupRows} &&
                uint32_t{shader::kDenseThreads} == uint32_t{shader::kGroupThreads});
  if (size == CallSize::kPrompt) {
    dispatch.threadgroup(shader::gemm_threadgroup_bytes(4))
        .run({shader::gemm_row_groups(u32(rows)), shader::gemm_token_groups(u32(tokens))},
             shader::kGemmThreads);
    return;
  }
  const uint32_t blocks = size == CallSize::kOne ? 1 : groups_of(tokens, shader::kColumnTokens);
  dispatch.run({groups_of(rows, shader::kGroupRows), blocks}, shader::kGroupThreads);
}

/// What the CPU's term does with sums too long for 32 bits (formats/table/table.cc).
uint32_t rounding_shift(uint32_t chunks, uint32_t headroom) {
  const auto log2_up = static_cast<uint32_t>(std::bit_width(chunks * 32 - 1));
  const uint32_t bits = log2_up + 14 + headroom;
  return bits > 30 ? bits - 30 : 0;
}

}  // namespace

/// A matrix of signs times codes, but for what becomes of the integers.
struct GpuEncoder::Product {
  Tag tag = Tag::kSign;
  GpuSlice words;
  GpuSlice table;
  GpuCodes input;
  shader::GemvArgs gemv{};
  shader::EpilogueArgs epilogue{};
  uint32_t tokens_at_once = 1;  // of one threadgroup

  Product(Tag matrix, Shape shape, int64_t first_column, const GpuCodes& codes)
      : tag(matrix), input(codes) {
    gemv.rows = u32(shape.rows);
    gemv.chunks = u32(chunks_of(shape.cols));
    gemv.first_chunk = u32(first_column / kChunk);
    gemv.input_chunks = u32(chunks_of(codes.columns));
    gemv.headroom = u32(headroom_bits(codes.columns));
    // A lane of code84 takes the four chunks that four stored words expand to at a time.
    gemv.lanes_log2 = shader::gemv_lanes_log2(tag == Tag::kCode84 ? gemv.chunks / 4 : gemv.chunks);
    gemv.pair_quads = 1;
    gemv.tokens = u32(codes.tokens);
    if (codes.tokens > 1 && tag != Tag::kTable) tokens_at_once = shader::kColumnTokens;
  }

  GridSize grid(uint32_t threads) const {
    return {shader::gemv_groups(gemv.rows, threads, gemv.lanes_log2),
            groups_of(input.tokens, tokens_at_once)};
  }
  uint32_t memory(uint32_t threads) const {
    return tokens_at_once * shader::gemv_threadgroup_bytes(threads, gemv.lanes_log2);
  }
  GpuDispatch begin(GpuStream& stream, SignKernel kernel, Epilogue end) const {
    const std::string_view name =
        tokens_at_once > 1 ? columns_kernel(tag, end) : gemv_kernel(kernel, tag, end);
    CHECK(!name.empty());
    GpuDispatch dispatch(stream, name);
    dispatch.arguments(gemv).arguments(epilogue).read(words).read(input.slice);
    return dispatch;
  }
};

void GpuEncoder::matrix_sums(const Product& product, const GpuSlice& sums,
                             const GpuSlice& exponents) {
  shader::EpilogueArgs epilogue{};
  epilogue.y_stride = product.gemv.rows;
  GpuDispatch dispatch(stream_, gemm_kernel(product.tag));
  dispatch.arguments(product.gemv)
      .arguments(epilogue)
      .read(product.words)
      .read(product.input.slice)
      .write(sums)
      .write(exponents);
  if (product.tag == Tag::kTable) dispatch.read(product.table);
  dispatch.threadgroup(shader::gemm_threadgroup_bytes(2))
      .run({shader::gemm_row_groups(product.gemv.rows),
            shader::gemm_token_groups(product.gemv.tokens)},
           shader::kGemmThreads);
}

GpuCodes GpuEncoder::matrix_rank_codes(const GpuWeight::Term& term, const GpuCodes& x) {
  const int64_t rank = term.shape.rank;
  const auto tokens = static_cast<uint64_t>(x.tokens);
  Product v(Tag::kFactored, {rank, term.shape.columns}, term.first_column, x);
  v.words = term.words;
  const GpuSlice sums =
      scratch_.take(GpuScratch::kRankSums, 4 * tokens * static_cast<uint64_t>(rank));
  const GpuSlice exponents = scratch_.take(GpuScratch::kRankExponents, 4 * tokens);
  matrix_sums(v, sums, exponents);
  shader::RankCodesArgs args{};
  args.rank = u32(rank);
  args.flags = term.s_mid.memory != nullptr ? shader::kEpilogueMidScale : 0u;
  args.input_chunks = v.gemv.input_chunks;
  const GpuCodes codes = new_codes(x.tokens, rank, x.slot);
  const uint32_t chunks = shader::chunks_of_columns(args.rank);
  GpuDispatch(stream_, "rank_codes")
      .arguments(args)
      .read(sums)
      .read(exponents)
      .read(x.slice)
      .read(or_dummy(term.s_mid))
      .write(codes.slice)
      .bind(status_slice_)
      .run({groups_of(chunks, shader::kGemmSimdgroups), u32(x.tokens)}, shader::kGemmThreads);
  return codes;
}

GpuCodes GpuEncoder::rank_codes(const GpuWeight::Term& term, const GpuCodes& x) {
  if (by_matrix(x.tokens)) return matrix_rank_codes(term, x);
  const int64_t rank = term.shape.rank;
  Product v(Tag::kFactored, {rank, term.shape.columns}, term.first_column, x);
  v.words = term.words;
  if (term.s_mid.memory != nullptr) v.epilogue.flags |= shader::kEpilogueMidScale;
  const GpuCodes codes = new_codes(x.tokens, rank, x.slot);
  v.begin(stream_, policy_.sign_kernel, Epilogue::kRank)
      .read(or_dummy(term.s_mid))
      .write(codes.slice)
      .bind(status_slice_)
      .threadgroup(v.memory(shader::kGemvThreads))
      .run(v.grid(shader::kGemvThreads), shader::kGemvThreads);
  return codes;
}

/// The product whose rows are the linear's outputs; of a factored term, after its first stage.
GpuEncoder::Product GpuEncoder::last_product(const GpuWeight& w, const GpuWeight::Term& term,
                                             const GpuCodes& x) {
  if (term.tag == Tag::kFactored) {
    Product u(term.tag, {w.shape.rows, term.shape.rank}, 0, rank_codes(term, x));
    u.words = term.second;
    u.epilogue.gain = term.gain;
    return u;
  }
  Product product(term.tag, {w.shape.rows, term.shape.columns}, term.first_column, x);
  product.words = term.words;
  product.epilogue.gain = term.gain;
  if (term.tag == Tag::kTable) {
    product.table = term.table;
    const int64_t width = term.shape.table_width;
    product.gemv.table_width = u32(width);
    product.gemv.vectors = u32((term.shape.columns + width - 1) / width);
    product.gemv.rounding_shift = rounding_shift(product.gemv.chunks, product.gemv.headroom);
  }
  return product;
}

void GpuEncoder::multiply_packed(const GpuWeight& w, const GpuCodes& x, Tensor y, OutputMode mode) {
  if (w.terms.size() != 1 || by_matrix(w.terms[0].tag, x.tokens)) {
    return multiply_terms(w, x, y, mode);
  }
  Product product = last_product(w, w.terms[0], x);
  if (w.bias.memory != nullptr) product.epilogue.flags |= shader::kEpilogueBias;
  product.epilogue.y_stride = u32(y.stride);
  GpuDispatch dispatch = product.begin(
      stream_, policy_.sign_kernel, mode == OutputMode::kAdd ? Epilogue::kAdd : Epilogue::kStore);
  dispatch.read(w.s_post).read(or_dummy(w.bias)).write(slice(y)).bind(status_slice_);
  if (product.tag == Tag::kTable) dispatch.read(product.table);
  dispatch.threadgroup(product.memory(shader::kGemvThreads))
      .run(product.grid(shader::kGemvThreads), shader::kGemvThreads);
}

void GpuEncoder::sums(const GpuWeight& w, size_t term, const GpuCodes& x) {
  const auto tokens = static_cast<uint64_t>(x.tokens);
  const auto rows = static_cast<uint64_t>(w.shape.rows);
  const uint64_t terms = w.terms.size();
  GpuSlice all_sums = scratch_.take(GpuScratch::kSums, 4 * terms * tokens * rows);
  GpuSlice all_exponents = scratch_.take(GpuScratch::kExponents, 4 * terms * tokens);
  const GpuSlice own_sums = {all_sums.memory, 4 * term * tokens * rows, 4 * tokens * rows};
  const GpuSlice own_exponents = {all_exponents.memory, 4 * term * tokens, 4 * tokens};
  Product product = last_product(w, w.terms[term], x);
  if (by_matrix(product.tag, x.tokens)) {
    return matrix_sums(product, own_sums, own_exponents);
  }
  product.epilogue.y_stride = u32(w.shape.rows);
  GpuDispatch dispatch = product.begin(stream_, policy_.sign_kernel, Epilogue::kSums);
  dispatch.write(own_sums).write(own_exponents);
  if (product.tag == Tag::kTable) dispatch.read(product.table);
  dispatch.threadgroup(product.memory(shader::kGemvThreads))
      .run(product.grid(shader::kGemvThreads), shader::kGemvThreads);
}

void GpuEncoder::multiply_terms(const GpuWeight& w, const GpuCodes& x, Tensor y, OutputMode mode) {
  for (size_t t = 0; t < w.terms.size(); ++t) sums(w, t, x);
  const auto tokens = static_cast<uint64_t>(x.tokens);
  const auto rows = static_cast<uint64_t>(w.shape.rows);
  const uint64_t terms = w.terms.size();
  shader::FinishArgs args{};
  args.rows = u32(w.shape.rows);
  args.terms = static_cast<uint32_t>(terms);
  args.flags = w.bias.memory != nullptr ? shader::kEpilogueBias : 0u;
  args.tokens = u32(x.tokens);
  args.y_stride = u32(y.stride);
  args.input_chunks = u32(chunks_of(x.columns));
  for (size_t t = 0; t < terms; ++t) args.gains[t] = w.terms[t].gain;
  GpuDispatch(stream_, mode == OutputMode::kAdd ? "finish_terms_add" : "finish_terms")
      .arguments(args)
      .read(scratch_.take(GpuScratch::kSums, 4 * terms * tokens * rows))
      .read(scratch_.take(GpuScratch::kExponents, 4 * terms * tokens))
      .read(x.slice)
      .read(w.s_post)
      .read(or_dummy(w.bias))
      .write(slice(y))
      .bind(status_slice_)
      .run({groups_of(w.shape.rows, shader::kFinishThreads), u32(x.tokens)},
           shader::kFinishThreads);
}

GpuCodes GpuEncoder::multiply_add_norm(const GpuWeight& w, const GpuCodes& x, Tensor h,
                                       const GpuNorm& norm) {
  Product product = last_product(w, w.terms[0], x);
  if (w.bias.memory != nullptr) product.epilogue.flags |= shader::kEpilogueBias;
  product.epilogue.y_stride = u32(h.stride);
  product.epilogue.eps = norm.eps;
  const GpuCodes codes = new_codes(h.rows, h.cols, product.input.slot);
  product.begin(stream_, policy_.sign_kernel, Epilogue::kAddNorm)
      .read(w.s_post)
      .read(or_dummy(w.bias))
      .write(slice(h))
      .read(map_.constant(norm.weight))
      .write(codes.slice)
      .bind(status_slice_)
      .threadgroup(product.memory(shader::kGemvThreads))
      .run(product.grid(shader::kGemvThreads), shader::kGemvThreads);
  return codes;
}

GpuCodes GpuEncoder::multiply_swiglu(const GpuWeight& w, const GpuCodes& x) {
  const int64_t ffn = w.shape.rows / 2;
  Product product = last_product(w, w.terms[0], x);
  if (w.bias.memory != nullptr) product.epilogue.flags |= shader::kEpilogueBias;
  product.gemv.pair_quads = u32(ffn / 4);
  const GpuCodes codes = new_codes(x.tokens, ffn, product.input.slot);
  product.begin(stream_, policy_.sign_kernel, Epilogue::kSwiglu)
      .read(w.s_post)
      .read(or_dummy(w.bias))
      .write(codes.slice)
      .bind(status_slice_)
      .threadgroup(product.memory(shader::kSwigluThreads))
      .run(product.grid(shader::kSwigluThreads), shader::kSwigluThreads);
  return codes;
}

void GpuEncoder::multiply_qkv(const GpuWeight& w, const GpuCodes& x, const GpuQkv& qkv, Tensor q) {
  Product product = last_product(w, w.terms[0], x);
  shader::EpilogueArgs& end = product.epilogue;
  if (w.bias.memory != nullptr) end.flags |= shader::kEpilogueBias;
  if (qkv.kv.type == KvType::kF16) end.flags |= shader::kEpilogueHalfCache;
  end.y_stride = u32(q.stride);
  end.heads = u32(qkv.shape.heads);
  set_cache(end, qkv.shape, qkv.kv, qkv.first_position);
  product.gemv.pair_quads = u32(qkv.shape.head_dim / 8);
  const GpuCache cache(map_, qkv.shape, qkv.kv);
  product.begin(stream_, policy_.sign_kernel, Epilogue::kQkv)
      .read(w.s_post)
      .read(or_dummy(w.bias))
      .write(slice(q))
      .write(cache.keys)
      .write(cache.values)
      .read(map_.constant(std::span(qkv.rope->cosine)))
      .read(map_.constant(std::span(qkv.rope->sine)))
      .bind(status_slice_)
      .threadgroup(product.memory(shader::kGemvThreads))
      .run(product.grid(shader::kGemvThreads), shader::kGemvThreads);
}

void GpuEncoder::multiply_groups(const GpuWeight& w, const GpuCodes& x, const GpuSlice& bias,
                                 Tensor y, OutputMode mode) {
  shader::GroupGemvArgs args{};
  args.rows = u32(w.shape.rows);
  args.columns = u32(w.shape.cols);
  args.group = u32(w.group);
  args.groups = groups_of(w.shape.cols, args.group);
  args.scales_at = static_cast<uint32_t>(w.scales_at);
  args.headroom = u32(headroom_bits(w.group * w.code_reach));
  args.flags = bias.memory != nullptr ? shader::kEpilogueBias : 0u;
  args.y_stride = u32(y.stride);
  args.tokens = u32(x.tokens);
  const CallSize size = call_size(policy_, x.tokens);
  GpuDispatch dispatch(stream_, plain_kernel(w.kind, mode, size));
  dispatch.arguments(args).read(w.bytes).read(x.slice).read(or_dummy(bias)).write(slice(y));
  run_plain(dispatch, size, w.shape.rows, x.tokens);
}

void GpuEncoder::multiply_dense(const GpuWeight& w, Tensor x, const GpuSlice& bias, Tensor y,
                                OutputMode mode) {
  shader::DenseGemvArgs args{};
  args.rows = u32(w.shape.rows);
  args.columns = u32(w.shape.cols);
  args.x_stride = u32(x.stride);
  args.y_stride = u32(y.stride);
  args.tokens = u32(x.rows);
  GpuSlice scales = dummy_;
  if (x.row_scale != nullptr) {
    args.flags |= shader::kDenseRowScale;
    scales = map_.shared(x.row_scale, sizeof(float) * static_cast<uint64_t>(x.rows));
  }
  if (bias.memory != nullptr) args.flags |= shader::kDenseBias;
  const CallSize size = call_size(policy_, x.rows);
  GpuDispatch dispatch(stream_, plain_kernel(w.kind, mode, size));
  dispatch.arguments(args)
      .read(w.bytes)
      .read(slice(x))
      .read(scales)
      .read(or_dummy(bias))
      .write(slice(y));
  run_plain(dispatch, size, w.shape.rows, x.rows);
}

}  // namespace subbit
