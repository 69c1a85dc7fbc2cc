// Messages, references, pools.
#if !defined(__APPLE__)

#include "support/fake_metal/objc_runtime.h"

#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <vector>

namespace subbit::fake_metal {
namespace {

std::recursive_mutex runtime_mutex;
std::atomic<int64_t> live_objects{0};
std::atomic<int64_t> over_releases{0};
thread_local std::vector<std::vector<Object*>> pools;

struct ClassObject final : Object {
  using Object::Object;
};

/// What is left of an object of `type`. Refers to nothing else of it.
struct Zombie final : Object {
  explicit Zombie(Class& was) : Object(was) { --live_objects; }
};

/// So many are remembered: more than a pass makes, and each is small.
constexpr size_t kMostZombies = 4096;
thread_local Class* last_destroyed = nullptr;

/// Zombies, oldest first. Kept to the end of the process, so that no leak is seen in them.
std::deque<void*>& zombies() {
  static auto* all = new std::deque<void*>();
  return *all;
}

struct Named {
  Class type;
  std::unique_ptr<ClassObject> object;
};

std::map<std::string, Named>& classes() {
  static auto* all = new std::map<std::string, Named>();
  return *all;
}

Named& named(const std::string& name) {
  const std::lock_guard lock(runtime_mutex);
  Named& found = classes()[name];
  if (found.object == nullptr) {
    found.type.name = name;
    add_common_methods(found.type);
    found.object = std::make_unique<ClassObject>(found.type);
    --live_objects;  // classes are not counted
  }
  return found;
}

uintptr_t nothing(Id, Selector) { return 0; }

[[noreturn]] void unrecognized(Id self, Selector selector) {
  throw Misuse("-[" + as<Object>(self).type.name + " " + std::string(name_of(selector)) +
               "]: unrecognized selector");
}

bool is_zombie(Object& object) { return dynamic_cast<Zombie*>(&object) != nullptr; }

[[noreturn]] void used_after_release(Id self, Selector selector) {
  throw Misuse("-[" + reinterpret_cast<Object*>(self)->type.name + " " +
               std::string(name_of(selector)) + "]: sent to an object after its last release");
}

bool responds_to(Id self, Selector, Selector asked) {
  const Class& type = as<Object>(self).type;
  return type.methods.contains(name_of(asked));
}

/// Also of a zombie: destructors release, and nothing may be thrown through them.
void release_message(Id self, Selector) { release(*reinterpret_cast<Object*>(self)); }

}  // namespace

int64_t live_object_count() { return live_objects; }
int64_t over_release_count() { return over_releases; }

Object::Object(Class& kind) : type(kind) { ++live_objects; }
Object::~Object() {
  --live_objects;
  last_destroyed = &type;
}

void* Object::operator new(size_t bytes) { return ::operator new(bytes); }

void Object::operator delete(void* memory) {
  const std::lock_guard lock(runtime_mutex);
  ::new (memory) Zombie(*last_destroyed);
  zombies().push_back(memory);
  if (zombies().size() <= kMostZombies) return;
  ::operator delete(zombies().front());
  zombies().pop_front();
}

Object& alive(Id id) {
  auto& object = *reinterpret_cast<Object*>(id);
  if (!is_zombie(object)) return object;
  throw Misuse("an object of " + object.type.name + " was given after its last release");
}

std::string_view name_of(Selector selector) { return reinterpret_cast<const char*>(selector); }

Class& class_named(const std::string& name) { return named(name).type; }

void add_common_methods(Class& type) {
  type.methods["respondsToSelector:"] = method(responds_to);
  type.methods["release"] = method(release_message);
}

void retain(Object& object) { ++object.references; }

void release(Object& object) {
  if (is_zombie(object)) {
    ++over_releases;
  } else if (--object.references == 0) {
    delete &object;
  }
}

Id autorelease(Object* object) {
  if (pools.empty()) throw Misuse("-[" + object->type.name + " autorelease]: no pool in place");
  pools.back().push_back(object);
  return id_of(object);
}

/// Called by objc_msgSend below. Must not throw: nothing can unwind through assembly.
extern "C" Method fake_objc_lookup(Id self, Selector selector) {
  if (self == nullptr) return method(nothing);
  const std::lock_guard lock(runtime_mutex);
  auto& object = *reinterpret_cast<Object*>(self);
  const std::string_view name = name_of(selector);
  if (is_zombie(object)) return method(name == "release" ? release_message : used_after_release);
  const bool is_class = dynamic_cast<ClassObject*>(&object) != nullptr;
  const auto& methods = is_class ? object.type.class_methods : object.type.methods;
  const auto found = methods.find(name);
  return found == methods.end() ? method(unrecognized) : found->second;
}

}  // namespace subbit::fake_metal

extern "C" {

objc_object* objc_getClass(const char* name) {
  return subbit::fake_metal::id_of(subbit::fake_metal::named(name).object.get());
}

objc_selector* sel_registerName(const char* name) {
  static auto* all = new std::set<std::string>();
  const std::lock_guard lock(subbit::fake_metal::runtime_mutex);
  const char* kept = all->insert(name).first->c_str();
  return reinterpret_cast<objc_selector*>(const_cast<char*>(kept));
}

void* objc_autoreleasePoolPush(void) {
  auto& pools = subbit::fake_metal::pools;
  pools.emplace_back();
  return reinterpret_cast<void*>(pools.size());
}

void objc_autoreleasePoolPop(void* pool) {
  auto& pools = subbit::fake_metal::pools;
  while (pools.size() >= reinterpret_cast<size_t>(pool)) {
    for (subbit::fake_metal::Object* object : pools.back()) subbit::fake_metal::release(*object);
    pools.pop_back();
  }
}

}  // extern "C"

// Finds the method with every argument in place, then jumps to it: the method returns, or throws,
// straight to the sender. Arguments are integers and pointers alone; floats are not kept.
#if defined(__x86_64__)
asm(R"(
.text
.globl objc_msgSend
.type objc_msgSend, @function
objc_msgSend:
  push %rdi
  push %rsi
  push %rdx
  push %rcx
  push %r8
  push %r9
  sub $8, %rsp
  call fake_objc_lookup@PLT
  add $8, %rsp
  pop %r9
  pop %r8
  pop %rcx
  pop %rdx
  pop %rsi
  pop %rdi
  jmp *%rax
.size objc_msgSend, .-objc_msgSend
.section .note.GNU-stack,"",@progbits
.text
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl objc_msgSend
.type objc_msgSend, @function
objc_msgSend:
  stp x29, x30, [sp, #-96]!
  stp x0, x1, [sp, #16]
  stp x2, x3, [sp, #32]
  stp x4, x5, [sp, #48]
  stp x6, x7, [sp, #64]
  str x8, [sp, #80]
  bl fake_objc_lookup
  mov x16, x0
  ldp x0, x1, [sp, #16]
  ldp x2, x3, [sp, #32]
  ldp x4, x5, [sp, #48]
  ldp x6, x7, [sp, #64]
  ldr x8, [sp, #80]
  ldp x29, x30, [sp], #96
  br x16
.size objc_msgSend, .-objc_msgSend
.text
)");
#endif

#endif  // !defined(__APPLE__)
