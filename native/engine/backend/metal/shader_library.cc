// Puts the shader files together.
#include "backend/metal/shader_library.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace subbit {
namespace {

/// "device/../qvec.h" -> "qvec.h".
std::string normalized(std::string_view path) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part == ".." && !parts.empty()) {
      parts.pop_back();
    } else if (part != "." && !part.empty()) {
      parts.push_back(part);
    }
    begin = end + 1;
  }
  std::string joined;
  for (const std::string_view part : parts) joined.append(joined.empty() ? "" : "/").append(part);
  return joined;
}

std::string_view trimmed(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t");
  return first == std::string_view::npos ? std::string_view() : line.substr(first);
}

class Assembly {
 public:
  explicit Assembly(std::span<const ShaderFile> files) : files_(files) {}

  void add(const std::string& path) {
    if (std::ranges::find(seen_, path) != seen_.end()) return;
    seen_.push_back(path);
    const auto file = std::ranges::find(files_, path, &ShaderFile::path);
    if (file == files_.end()) {
      throw Error(ErrorCode::kInternal, "no shader file " + path);
    }
    const std::string folder = path.substr(0, path.find_last_of("/") + 1);
    for (size_t begin = 0; begin < file->text.size();) {
      const size_t end = std::min(file->text.find('\n', begin), file->text.size());
      add_line(file->text.substr(begin, end - begin), folder);
      begin = end + 1;
    }
  }
  std::string take() { return std::move(text_); }

 private:
  void add_line(std::string_view line, const std::string& folder) {
    constexpr std::string_view kInclude = "#include \"";
    const std::string_view word = trimmed(line);
    if (word.starts_with("#pragma once")) return;
    if (!word.starts_with(kInclude)) {
      text_.append(line).append("\n");
      return;
    }
    const std::string_view name = word.substr(kInclude.size());
    add(normalized(folder + std::string(name.substr(0, name.find('"')))));
  }

  std::span<const ShaderFile> files_;
  std::vector<std::string> seen_;
  std::string text_;
};

}  // namespace

std::string shader_library(std::span<const ShaderFile> files) {
  Assembly assembly(files);
  for (const ShaderFile& file : files) {
    if (file.path.ends_with(".metal")) assembly.add(std::string(file.path));
  }
  return assembly.take();
}

}  // namespace subbit
