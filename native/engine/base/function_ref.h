// A callable that somebody else keeps alive: two words, no allocation, for calls that do not
// outlive what they were given.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace subbit {

template <typename Signature>
class FunctionRef;

template <typename Result, typename... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  FunctionRef() = default;  // nothing to call: false
  template <typename Fn>
    requires(!std::is_same_v<std::remove_cvref_t<Fn>, FunctionRef>)
  FunctionRef(Fn&& fn)  // NOLINT: stands for the callable
      : self_(const_cast<void*>(static_cast<const void*>(std::addressof(fn)))),
        call_([](void* self, Arguments... arguments) -> Result {
          return (*static_cast<std::remove_reference_t<Fn>*>(self))(
              std::forward<Arguments>(arguments)...);
        }) {}

  explicit operator bool() const { return call_ != nullptr; }
  Result operator()(Arguments... arguments) const {
    return call_(self_, std::forward<Arguments>(arguments)...);
  }

 private:
  void* self_ = nullptr;
  Result (*call_)(void* self, Arguments... arguments) = nullptr;
};

}  // namespace subbit
