// What trials of a GPU have found, remembered in a file of lines: what was tried, a tab, what came
// of it. Chip, system and engine are part of what was tried: another of them is another trial.
#pragma once

#include <string>

#include "backend/gpu/device.h"

namespace subbit {

/// Begins a line of the file: what a verdict holds for, besides `of`.
std::string verdict_key(const GpuFacts& facts, const std::string& of);

class Verdicts {
 public:
  /// An empty path remembers nothing.
  explicit Verdicts(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  /// Empty: never tried.
  std::string recall(const std::string& key) const;
  /// A file that cannot be written costs the trial again next time, and nothing else.
  void remember(const std::string& key, const std::string& verdict) const;

 private:
  std::string path_;
};

}  // namespace subbit
