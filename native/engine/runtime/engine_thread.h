// One thread that does one model's work in order.
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "engine.h"

namespace subbit {

class EngineThread {
 public:
  /// A piece of work: `run` does it; `refuse` is called instead when the thread stops first.
  struct Task {
    std::shared_ptr<JobControl> control;
    std::function<void()> run;
    std::function<void(const Error&)> refuse;
  };

  EngineThread();
  ~EngineThread();  // stop()

  /// After stop(), and when there is no memory to remember it in, the task is refused at once, on
  /// the caller's thread.
  void post(Task task);
  /// Aborts the running task, refuses the waiting ones with kDisposed, joins. Idempotent; from any
  /// thread but the engine thread itself.
  void stop();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Task> waiting_;  // an empty list holds no memory: stop() must not allocate
  std::shared_ptr<JobControl> running_;
  bool stopping_ = false;
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace subbit
