// The kernels of a sign matrix, one for each epilogue, for a way to multiply (Chunk), a way the
// words are stored (Words) and the tokens that share one load of them. A macro, because a kernel is
// a function with a fixed list of bindings.
#pragma once

#include "epilogue.h"

/// What every kernel of this file starts with: its place, its inputs and their integers.
#define GEMV_MULTIPLY(Chunk, Words, kThreads, kTokens)                \
  const GemvArgs args = gemv_args;                                    \
  const EpilogueArgs epilogue = epilogue_args;                        \
  const GemvPlace place = gemv_place(args, group.x, kThreads, index); \
  GemvInput inputs[kTokens];                                          \
  gemv_inputs<kTokens>(inputs, qvec, args, group.y, lane);            \
  multiply_signs<Chunk, Words, kTokens>(words, args, place, inputs, integers)

/// What finishes one token: `own` are its integers, `at` is its group.
#define GEMV_EACH_TOKEN(kTokens, ...)                            \
  UNROLL                                                         \
  for (uint t = 0; t < kTokens; ++t) {                           \
    uint3 at = group;                                            \
    at.y = group.y * kTokens + t;                                \
    if (kTokens > 1 && at.y >= args.tokens) continue;            \
    const OutputScale scale = output_scale(inputs[t], lane);     \
    threadgroup const int* own = integers + 8 * place.pairs * t; \
    __VA_ARGS__;                                                 \
  }

#define GEMV_KERNELS(prefix, Chunk, Words, kTokens)                                                \
  KERNEL(prefix##_sums,                                                                            \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                             \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                     \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],          \
          device int* sums [[buffer(4)]], device int* exponents [[buffer(5)]],                     \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                     \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, kTokens);                                            \
    GEMV_EACH_TOKEN(kTokens,                                                                       \
                    finish_sums(own, args, epilogue, place, scale, at, index, sums, exponents))    \
  }                                                                                                \
  KERNEL(prefix##_store,                                                                           \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                             \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                     \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],          \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],         \
          device float* y [[buffer(6)]], device atomic_uint* status [[buffer(7)]],                 \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                     \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, kTokens);                                            \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                             \
    GEMV_EACH_TOKEN(kTokens, finish_rows<false>(own, args, epilogue, place, scale, at, index,      \
                                                scales, y, status))                                \
  }                                                                                                \
  KERNEL(prefix##_add,                                                                             \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                             \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                     \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],          \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],         \
          device float* y [[buffer(6)]], device atomic_uint* status [[buffer(7)]],                 \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                     \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, kTokens);                                            \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                             \
    GEMV_EACH_TOKEN(kTokens, finish_rows<true>(own, args, epilogue, place, scale, at, index,       \
                                               scales, y, status))                                 \
  }                                                                                                \
  KERNEL(prefix##_add_norm,                                                                        \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                             \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                     \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],          \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],         \
          device float* h [[buffer(6)]], device const float* weight [[buffer(7)]],                 \
          device uint* out [[buffer(8)]], device atomic_uint* status [[buffer(9)]],                \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                     \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, kTokens);                                            \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                             \
    GEMV_EACH_TOKEN(kTokens, finish_add_norm(own, args, epilogue, place, scale, at, index, scales, \
                                             h, weight, out, status))                              \
  }                                                                                                \
  KERNEL(prefix##_swiglu,                                                                          \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                             \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                     \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],          \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],         \
          device uint* out [[buffer(6)]], device atomic_uint* status [[buffer(7)]],                \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                     \
    GEMV_MULTIPLY(Chunk, Words, kSwigluThreads, kTokens);                                          \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                             \
    GEMV_EACH_TOKEN(                                                                               \
        kTokens, finish_swiglu(own, args, epilogue, place, scale, at, index, scales, out, status)) \
  }                                                                                                \
  KERNEL(prefix##_qkv,                                                                             \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                             \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                     \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],          \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],         \
          device float* q [[buffer(6)]], device uchar* keys [[buffer(7)]],                         \
          device uchar* values [[buffer(8)]], device const float* cosine [[buffer(9)]],            \
          device const float* sine [[buffer(10)]], device atomic_uint* status [[buffer(11)]],      \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                     \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, kTokens);                                            \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                             \
    const QkvTargets targets = {q, keys, values, cosine, sine};                                    \
    GEMV_EACH_TOKEN(kTokens, finish_qkv(own, args, epilogue, place, scale, at, index, scales,      \
                                        targets, status))                                          \
  }

/// The first stage of a factored term, whose integers become codes.
#define GEMV_RANK_KERNEL(name, Chunk, Words, kTokens)                                              \
  KERNEL(name, (constant GemvArgs & gemv_args [[buffer(0)]],                                       \
                constant EpilogueArgs & epilogue_args [[buffer(1)]],                               \
                device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],    \
                device const half* s_mid [[buffer(4)]], device uint* out [[buffer(5)]],            \
                device atomic_uint* status [[buffer(6)]],                                          \
                threadgroup int* integers THREADGROUP(0), THREAD)) {                               \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, kTokens);                                            \
    GEMV_EACH_TOKEN(kTokens,                                                                       \
                    finish_rank(own, args, epilogue, place, scale, at, index, s_mid, out, status)) \
  }
