// What every shader includes first: Metal's library, and the macros that let the same text be
// C++ for test/support/metal_on_cpu, which defines its own of KERNEL, THREADGROUP
// and UNROLL before it includes a shader.
#pragma once

#ifdef __METAL_VERSION__
#include <metal_stdlib>
using namespace metal;
#define KERNEL(name, parameters) kernel void name parameters
#define THREADGROUP(index) [[threadgroup(index)]]
// Before a loop over an array that must live in registers: one that is left rolled spills it.
#define UNROLL _Pragma("clang loop unroll(full)")
#endif

#include "../qvec.h"

using namespace subbit::shader;

// The last parameters of every kernel. `group` is in threadgroups, y the token.
#define THREAD                                                                              \
  uint3 group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]], \
      uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]
