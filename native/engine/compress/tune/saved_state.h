// What an interrupted tuning continues from: arrays that their owners list by name, in one file
// that is whole or not there. Owners list the same arrays for writing and for reading back, so that
// the two cannot drift apart.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/buffer.h"

namespace subbit {

class StateArrays {
 public:
  struct Array {
    std::string name;
    std::span<std::byte> bytes;
  };

  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void add(std::string name, std::span<T> values) {
    if (!values.empty()) arrays_.push_back({std::move(name), std::as_writable_bytes(values)});
  }
  template <typename T>
  void add(std::string name, std::vector<T>& values) {
    add(std::move(name), std::span<T>(values));
  }
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void add_one(std::string name, T& value) {
    add(std::move(name), std::span<T>(&value, 1));
  }
  template <typename T>
  void add(std::string name, Buffer<T>& values) {
    add(std::move(name), values.span());
  }
  std::span<const Array> arrays() const { return arrays_; }

 private:
  std::vector<Array> arrays_;
};

/// Throws kFileError. `key` says what the state belongs to.
void save_state(const std::string& path, const std::string& key, const StateArrays& arrays);

enum class StateFound { kNone, kLoaded, kUnreadable };
/// Fills the arrays, all or none: a file that is damaged, or has another key or other arrays, is
/// unreadable.
StateFound load_state(const std::string& path, const std::string& key, const StateArrays& arrays);

}  // namespace subbit
