// The file is small and read whole. Two processes that write it at once lose one of their verdicts.
#include "runtime/verdicts.h"

#include <algorithm>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "engine.h"
#include "io/file_writer.h"

namespace subbit {
namespace {

std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

}  // namespace

std::string verdict_key(const GpuFacts& facts, const std::string& of) {
  std::string key =
      facts.name + "|" + facts.system + "|" + std::string(engine_version()) + "|" + of;
  std::ranges::replace(key, '\n', ' ');
  std::ranges::replace(key, '\t', ' ');
  return key;
}

std::string Verdicts::recall(const std::string& key) const {
  if (path_.empty()) return "";
  for (const std::string& line : read_lines(path_)) {
    if (line.starts_with(key + "\t")) return line.substr(key.size() + 1);
  }
  return "";
}

void Verdicts::remember(const std::string& key, const std::string& verdict) const {
  if (path_.empty()) return;
  try {
    std::vector<std::string> lines = read_lines(path_);
    std::erase_if(lines, [&](const std::string& line) { return line.starts_with(key + "\t"); });
    FileWriter writer(path_);
    for (const std::string& line : lines) writer.write(line + "\n");
    writer.write(key + "\t" + verdict + "\n");
    writer.commit();
  } catch (const Error&) {
  }
}

}  // namespace subbit
