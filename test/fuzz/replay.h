// Runs a fuzz target without libFuzzer: over every file of a corpus, then over mutations of them
// that are the same on every machine. Shallow beside a real fuzzer, but every compiler can do it
// and every test run does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/rng.h"
#include "fuzz/target.h"
#include "support/files.h"

namespace subbit::fuzz {

/// Changes a copy of one input a few times, in ways that lengths, offsets and syntax dislike.
class Mutator {
 public:
  Mutator(const std::vector<std::string>& inputs, uint64_t seed) : inputs_(inputs), rng_(seed) {}

  std::string next() {
    std::string out = inputs_[below(inputs_.size())];
    for (uint64_t left = 1 + below(4); left > 0; --left) mutate(out);
    return out;
  }

 private:
  size_t below(size_t limit) { return limit == 0 ? 0 : rng_.next() % limit; }

  void mutate(std::string& text) {
    const size_t at = below(text.size() + 1);
    const size_t length = std::min(below(16), text.size() - at);
    switch (below(8)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        return;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(rng_.next());
        return;
      case 2:
        text.erase(at, length);
        return;
      case 3:
        text.insert(at, text.substr(at, length));
        return;
      case 4:
        text.resize(at);
        return;
      case 5:
        overwrite_integer(text, at);
        return;
      case 6: {
        static constexpr std::string_view kTokens[] = {"{",         "}",
                                                       "[",         "]",
                                                       "\"",        ",",
                                                       ":",         "-1",
                                                       "0",         "9223372036854775807",
                                                       "1e308",     "18446744073709551616",
                                                       "\\u0000",   "\\ud800",
                                                       "null",      "\xFF",
                                                       "-",         ".5",
                                                       "\"shape\":"};
        text.insert(at, kTokens[below(std::size(kTokens))]);
        return;
      }
      default: {
        const std::string& other = inputs_[below(inputs_.size())];
        const size_t from = below(other.size() + 1);
        text.replace(at, length, other.substr(from, below(64)));
      }
    }
  }

  void overwrite_integer(std::string& text, size_t at) {
    static constexpr uint64_t kValues[] = {0,
                                           1,
                                           7,
                                           0x7F,
                                           0x80,
                                           0xFFFF,
                                           0x7FFFFFFF,
                                           0x80000000,
                                           0xFFFFFFFF,
                                           uint64_t{1} << 32,
                                           uint64_t{1} << 62,
                                           ~uint64_t{0} >> 1,
                                           uint64_t{1} << 63,
                                           ~uint64_t{0} - 7,
                                           ~uint64_t{0}};
    const uint64_t value = kValues[below(std::size(kValues))];
    const size_t wanted = size_t{1} << below(4);
    std::memcpy(text.data() + at, &value, std::min(wanted, text.size() - at));
  }

  const std::vector<std::string>& inputs_;
  Rng rng_;
};

/// The corpus' files in the order of their names. Throws when there are none.
inline std::vector<std::string> read_corpus(const std::string& directory) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    paths.push_back(entry.path().string());
  if (paths.empty()) throw std::runtime_error("no inputs in " + directory);
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> inputs;
  for (const std::string& path : paths) inputs.push_back(test::read_file(path));
  return inputs;
}

/// Throws a Violation that carries the input in hexadecimal.
inline bool run_one(Target target, const std::string& input) {
  // A copy of exactly its size, so that AddressSanitizer sees a read past its end.
  const std::vector<std::byte> exact(test::as_bytes(input).begin(), test::as_bytes(input).end());
  try {
    return target(exact);
  } catch (const std::exception& error) {
    std::string message = std::string(error.what()) + "; input:";
    char byte[4];
    for (const char c : input) {
      std::snprintf(byte, sizeof byte, " %02x", static_cast<unsigned>(static_cast<uint8_t>(c)));
      message += byte;
    }
    throw Violation(message);
  }
}

struct Replayed {
  int64_t runs = 0;
  int64_t seeds_accepted = 0;  // a corpus of nothing but refused files would start nowhere
};

inline Replayed replay(Target target, const std::string& directory, int64_t mutations) {
  const std::vector<std::string> inputs = read_corpus(directory);
  Replayed replayed;
  for (const std::string& input : inputs) replayed.seeds_accepted += run_one(target, input) ? 1 : 0;
  Mutator mutator(inputs, 1);
  for (int64_t i = 0; i < mutations; ++i) run_one(target, mutator.next());
  replayed.runs = static_cast<int64_t>(inputs.size()) + mutations;
  return replayed;
}

}  // namespace subbit::fuzz
