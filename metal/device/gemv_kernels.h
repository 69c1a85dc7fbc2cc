// The kernels of a sign matrix, one for each epilogue, for a way to multiply (Chunk) and a way the
// words are stored (Words). A macro, because a kernel is a function with a fixed list of bindings.
#pragma once

#include "epilogue.h"

/// What every kernel of this file starts with: its place, its input and its integers.
#define GEMV_MULTIPLY(Chunk, Words, kThreads, qvec)                                               \
  const GemvArgs args = gemv_args;                                                                \
  const EpilogueArgs epilogue = epilogue_args;                                                    \
  const GemvPlace place = gemv_place(args, group.x, kThreads, index);                             \
  const GemvInput input = gemv_input(qvec + group.y * qvec_words(args.input_chunks), args, lane); \
  const OutputScale scale = output_scale(input, lane);                                            \
  multiply_signs<Chunk, Words>(words, args, place, input, integers)

#define GEMV_KERNELS(prefix, Chunk, Words)                                                        \
  KERNEL(prefix##_sums,                                                                           \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                            \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                    \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],         \
          device int* sums [[buffer(4)]], device int* exponents [[buffer(5)]],                    \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                    \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, qvec);                                              \
    finish_sums(integers, args, epilogue, place, scale, group, index, sums, exponents);           \
  }                                                                                               \
  KERNEL(prefix##_rank,                                                                           \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                            \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                    \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],         \
          device const half* s_mid [[buffer(4)]], device uint* out [[buffer(5)]],                 \
          device atomic_uint* status [[buffer(6)]], threadgroup int* integers THREADGROUP(0),     \
          THREAD)) {                                                                              \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, qvec);                                              \
    finish_rank(integers, args, epilogue, place, scale, group, index, s_mid, out, status);        \
  }                                                                                               \
  KERNEL(prefix##_store,                                                                          \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                            \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                    \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],         \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],        \
          device float* y [[buffer(6)]], device atomic_uint* status [[buffer(7)]],                \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                    \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, qvec);                                              \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                            \
    finish_rows<false>(integers, args, epilogue, place, scale, group, index, scales, y, status);  \
  }                                                                                               \
  KERNEL(prefix##_add,                                                                            \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                            \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                    \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],         \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],        \
          device float* y [[buffer(6)]], device atomic_uint* status [[buffer(7)]],                \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                    \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, qvec);                                              \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                            \
    finish_rows<true>(integers, args, epilogue, place, scale, group, index, scales, y, status);   \
  }                                                                                               \
  KERNEL(prefix##_add_norm,                                                                       \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                            \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                    \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],         \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],        \
          device float* h [[buffer(6)]], device const float* weight [[buffer(7)]],                \
          device uint* out [[buffer(8)]], device atomic_uint* status [[buffer(9)]],               \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                    \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, qvec);                                              \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                            \
    finish_add_norm(integers, args, epilogue, place, scale, group, index, scales, h, weight, out, \
                    status);                                                                      \
  }                                                                                               \
  KERNEL(prefix##_swiglu,                                                                         \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                            \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                    \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],         \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],        \
          device uint* out [[buffer(6)]], device atomic_uint* status [[buffer(7)]],               \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                    \
    GEMV_MULTIPLY(Chunk, Words, kSwigluThreads, qvec);                                            \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                            \
    finish_swiglu(integers, args, epilogue, place, scale, group, index, scales, out, status);     \
  }                                                                                               \
  KERNEL(prefix##_qkv,                                                                            \
         (constant GemvArgs & gemv_args [[buffer(0)]],                                            \
          constant EpilogueArgs & epilogue_args [[buffer(1)]],                                    \
          device const uint4* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],         \
          device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],        \
          device float* q [[buffer(6)]], device uchar* keys [[buffer(7)]],                        \
          device uchar* values [[buffer(8)]], device const float* cosine [[buffer(9)]],           \
          device const float* sine [[buffer(10)]], device atomic_uint* status [[buffer(11)]],     \
          threadgroup int* integers THREADGROUP(0), THREAD)) {                                    \
    GEMV_MULTIPLY(Chunk, Words, kGemvThreads, qvec);                                              \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                            \
    const QkvTargets targets = {q, keys, values, cosine, sine};                                   \
    finish_qkv(integers, args, epilogue, place, scale, group, index, scales, targets, status);    \
  }
