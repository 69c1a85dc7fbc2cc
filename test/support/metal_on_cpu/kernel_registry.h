// The kernels that have been compiled in, by name: each registers itself through the KERNEL macro
// of shader_language.h, with the text of its parameters and a function that calls it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "support/metal_on_cpu/metal_on_cpu.h"

namespace subbit::metal_on_cpu {

/// Calls a kernel; values[i] points to what its i-th parameter is: the object a reference names,
/// the first element a pointer points to, or the value itself.
using Invoke = void (*)(void* const* values);

/// Of what a parameter is or points to.
struct Layout {
  size_t bytes = 0;
  size_t alignment = 1;
};

struct Kernel {
  std::string name;
  std::vector<Argument> arguments;
  std::vector<Layout> layouts;  // of each argument
  Invoke invoke = nullptr;
};

/// Of a parameter list as written in the shader, "(device const uint4* words [[buffer(2)]], ...)".
/// Throws MetalError where Apple's compiler would refuse: a pointer without an address space, a
/// parameter without an attribute.
std::vector<Argument> parse_parameters(std::string_view kernel, std::string_view text);

/// Throws MetalError when there is none of this name.
const Kernel& find_kernel(std::string_view name);

struct Registration {
  Registration(const char* name, const char* parameters, std::vector<Layout> layouts,
               Invoke invoke);
};

}  // namespace subbit::metal_on_cpu
