// As much of the Objective-C runtime as typed messages need: classes with methods by selector,
// reference counts and autorelease pools. Methods are plain functions (self, selector, arguments).
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <string_view>

#include "backend/metal/objc.h"
#include "support/fake_metal/fake_metal.h"

namespace subbit::fake_metal {

using objc::Id;
using objc::Selector;
using Method = void (*)();

/// What objc_msgSend finds: the instance methods of a class, and those of the class object.
struct Class {
  std::string name;
  std::map<std::string, Method, std::less<>> methods;
  std::map<std::string, Method, std::less<>> class_methods;
};

/// Base of every object. An Id is a pointer to one.
struct Object {
  explicit Object(Class& type);
  virtual ~Object();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  /// An object that is gone leaves a zombie in its place, which tells on whoever still uses it.
  static void* operator new(size_t bytes);
  static void operator delete(void* memory);

  Class& type;
  std::atomic<int> references{1};
};

std::string_view name_of(Selector selector);
/// Made on first use.
Class& class_named(const std::string& name);

template <typename Function>
Method method(Function* function) {
  return reinterpret_cast<Method>(function);
}
inline Id id_of(Object* object) { return reinterpret_cast<Id>(object); }
/// Misuse where the object has been released for the last time.
Object& alive(Id id);
template <typename T>
T& as(Id id) {
  return static_cast<T&>(alive(id));
}

int64_t live_object_count();
/// Releases of what was gone already. They are counted and not thrown: destructors release.
int64_t over_release_count();
void retain(Object& object);
void release(Object& object);
/// Gives the caller's reference to the innermost pool of this thread. Misuse without one.
Id autorelease(Object* object);

/// Every class's methods, and no selector else: `respondsToSelector:` and `release`.
void add_common_methods(Class& type);

}  // namespace subbit::fake_metal
