// The Objective-C runtime for C++: messages with exact types, and ownership. objc_msgSend has no
// type of its own; it must be called through a pointer to a function of the method's signature,
// and that cast stands in this file alone. The runtime's functions are declared by hand so that a
// cross-build needs no SDK.
#pragma once

#include <utility>

extern "C" {
struct objc_object;
struct objc_selector;
objc_object* objc_getClass(const char* name);
objc_selector* sel_registerName(const char* name);
void objc_msgSend(void);
void* objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void* pool);
}

namespace subbit::objc {

using Id = objc_object*;
using Selector = objc_selector*;

/// A selector with the signature of the method it names. Sending to nil gives zero, as ever.
template <typename Signature>
class Message;

template <typename Result, typename... Arguments>
class Message<Result(Arguments...)> {
 public:
  explicit Message(const char* name) : selector_(sel_registerName(name)) {}

  Result operator()(Id receiver, Arguments... arguments) const {
    using Method = Result (*)(Id, Selector, Arguments...);
    return reinterpret_cast<Method>(&objc_msgSend)(receiver, selector_, arguments...);
  }
  Selector selector() const { return selector_; }

 private:
  Selector selector_;
};

inline void release(Id object) {
  static const Message<void()> message("release");
  message(object);
}

/// An object that we own one reference of: what methods named new, alloc, copy or retain return.
class Owned {
 public:
  Owned() = default;
  explicit Owned(Id object) : object_(object) {}
  Owned(Owned&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Owned() {
    if (object_ != nullptr) release(object_);
  }

  Id get() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  Id object_ = nullptr;
};

/// Every thread that sends messages needs one, or what they autorelease is never freed.
class AutoreleasePool {
 public:
  AutoreleasePool() : pool_(objc_autoreleasePoolPush()) {}
  ~AutoreleasePool() { objc_autoreleasePoolPop(pool_); }
  AutoreleasePool(const AutoreleasePool&) = delete;
  AutoreleasePool& operator=(const AutoreleasePool&) = delete;

 private:
  void* pool_;
};

}  // namespace subbit::objc
