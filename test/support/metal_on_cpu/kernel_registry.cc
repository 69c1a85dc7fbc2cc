// Reading kernel signatures.
#include "support/metal_on_cpu/kernel_registry.h"

#include <algorithm>
#include <map>
#include <regex>

namespace subbit::metal_on_cpu {
namespace {

struct Entry {
  const char* parameters;
  std::vector<Layout> layouts;
  Invoke invoke;
};

/// As registered, unread: a signature that cannot be read must fail a test, not static
/// initialization.
std::map<std::string, Entry, std::less<>>& entries() {
  static std::map<std::string, Entry, std::less<>> all;
  return all;
}

/// What THREAD and THREADGROUP of metal/device/dialect.h stand for.
constexpr const char* kThread =
    "uint3 group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]], "
    "uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]";

std::vector<std::string> split_parameters(std::string_view text) {
  std::string flat(text);
  flat = std::regex_replace(flat, std::regex("\\bTHREAD\\b"), kThread);
  flat = std::regex_replace(flat, std::regex("\\bTHREADGROUP(\\(\\d+\\))"), "[[threadgroup$1]]");
  std::vector<std::string> parts;
  std::string part;
  int depth = 0;
  for (const char c : flat) {
    if (c == '(' || c == '<' || c == '[') ++depth;
    if (c == ')' || c == '>' || c == ']') --depth;
    const bool outer = (c == '(' && depth == 1) || (c == ')' && depth == 0);
    if (c == ',' && depth == 1) {
      parts.push_back(part);
      part.clear();
    } else if (!outer) {
      part += c;
    }
  }
  parts.push_back(part);
  return parts;
}

Argument parse_parameter(std::string_view kernel, const std::string& text) {
  static const std::regex pattern(
      R"(\s*(device|constant|threadgroup|thread)?\s*(const)?\s*([\w:]+)\s*([*&]?)\s*(\w+)\s*)"
      R"(\[\[(\w+)(?:\((\d+)\))?\]\]\s*)");
  const auto refuse = [&](const std::string& why) {
    throw MetalError(std::string(kernel) + ": parameter '" + text + "' " + why);
  };
  std::smatch m;
  if (!std::regex_match(text, m, pattern)) refuse("cannot be read");
  Argument argument;
  const std::string space = m[1];
  argument.type = m[3];
  argument.name = m[5];
  argument.attribute = m[6];
  if (m[7].matched) argument.index = static_cast<uint32_t>(std::stoul(m[7]));
  const bool indirect = m[4].length() != 0;
  if (!indirect) {
    if (!space.empty()) refuse("is a value with an address space");
    return argument;
  }
  const bool local = space == "threadgroup";
  if (space.empty() || space == "thread") refuse("points into no address space a kernel may name");
  if (argument.attribute != (local ? "threadgroup" : "buffer") || !m[7].matched) {
    refuse("has the wrong attribute");
  }
  using Kind = Argument::Kind;
  argument.kind = local                 ? Kind::kThreadgroup
                  : space == "constant" ? Kind::kConstant
                  : m[2].matched        ? Kind::kDeviceRead
                                        : Kind::kDeviceWrite;
  return argument;
}

}  // namespace

std::vector<Argument> parse_parameters(std::string_view kernel, std::string_view text) {
  std::vector<Argument> arguments;
  for (const std::string& part : split_parameters(text)) {
    arguments.push_back(parse_parameter(kernel, part));
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].kind == Argument::Kind::kThread) continue;
    for (size_t j = 0; j < i; ++j) {
      if (arguments[j].attribute == arguments[i].attribute &&
          arguments[j].index == arguments[i].index) {
        throw MetalError(std::string(kernel) + ": two parameters have index " +
                         std::to_string(arguments[i].index));
      }
    }
  }
  return arguments;
}

const Kernel& find_kernel(std::string_view name) {
  static std::map<std::string, Kernel, std::less<>> read;
  if (const auto found = read.find(name); found != read.end()) return found->second;
  const auto entry = entries().find(name);
  if (entry == entries().end()) throw MetalError("no kernel named " + std::string(name));
  Kernel kernel{entry->first, parse_parameters(name, entry->second.parameters),
                entry->second.layouts, entry->second.invoke};
  if (kernel.layouts.size() != kernel.arguments.size()) {
    throw MetalError(kernel.name + ": its parameters cannot be told apart");
  }
  return read.emplace(entry->first, std::move(kernel)).first->second;
}

const std::vector<Argument>& arguments_of(std::string_view kernel) {
  return find_kernel(kernel).arguments;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries()) names.push_back(name);
  return names;
}

Registration::Registration(const char* name, const char* parameters, std::vector<Layout> layouts,
                           Invoke invoke) {
  entries().emplace(name, Entry{parameters, std::move(layouts), invoke});
}

}  // namespace subbit::metal_on_cpu
