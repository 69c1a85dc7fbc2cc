// The engine thread's queue.
#include "runtime/engine_thread.h"

#include <utility>

#if defined(__APPLE__)
#include <pthread.h>
#include <pthread/qos.h>
#endif

namespace subbit {
namespace {

Error disposed() { return Error(ErrorCode::kDisposed, "the model has been disposed"); }

}  // namespace

EngineThread::EngineThread() : thread_([this] { loop(); }) {}

EngineThread::~EngineThread() { stop(); }

void EngineThread::post(Task task) {
  Error refusal = disposed();
  try {
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
      waiting_.push_back(std::move(task));  // throws before it takes anything
      changed_.notify_one();
      return;
    }
  } catch (...) {
    refusal = current_error();
  }
  task.refuse(refusal);
}

void EngineThread::stop() {
  std::list<Task> refused;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    refused.swap(waiting_);
    if (running_ != nullptr) running_->abort = true;
    changed_.notify_all();
  }
  for (Task& task : refused) task.refuse(disposed());
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void EngineThread::loop() {
#if defined(__APPLE__)
  // As the workers of a pool, of which this thread is the first: not on efficiency cores.
  pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0);
#endif
  for (;;) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      task = std::move(waiting_.front());
      waiting_.pop_front();
      running_ = task.control;
    }
    task.run();
    const std::lock_guard lock(mutex_);
    running_ = nullptr;
  }
}

}  // namespace subbit
