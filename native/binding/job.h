// Long work off the JavaScript thread: a promise, an abort, and a channel from the working thread
// back. Every environment (main thread, worker_threads) keeps account of its jobs and waits for
// them when it is torn down.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <napi.h>
#include <thread>
#include <vector>

#include "engine.h"

namespace subbit::binding {

/// Sends closures to the JavaScript thread, with a JavaScript callback at hand. Safe from any
/// thread; after close(), or once the environment is going down, posts are dropped.
class Channel {
 public:
  using Message = std::function<void(Napi::Env, Napi::Function callback)>;

  Channel(Napi::Env env, Napi::Function callback);
  void post(Message message);
  /// No posts from this side any more. Exactly once.
  void close();

 private:
  Napi::ThreadSafeFunction function_;
  std::atomic<bool> gone_{false};
};

/// A promise that is settled through a Channel.
class Job : public std::enable_shared_from_this<Job> {
 public:
  using ToJs = std::function<Napi::Value(Napi::Env)>;

  /// `callback` is the JavaScript function that the channel's messages get.
  Job(Napi::Env env, Napi::Function callback);
  virtual ~Job() = default;

  const std::shared_ptr<JobControl>& control() const { return control_; }
  Channel& channel() { return channel_; }

  /// {promise, abort}.
  Napi::Object handle(Napi::Env env);
  /// From any thread, once. Closes the channel.
  void resolve(ToJs result);
  void reject(Error error);

  /// Runs `work` on a thread of its own; the closure it returns makes the result on the JavaScript
  /// thread. `on_progress` gets Progress objects.
  static Napi::Object run(Napi::Env env, Napi::Function on_progress,
                          std::function<ToJs(JobControl&)> work);

 private:
  void settle(Channel::Message message);

  std::shared_ptr<JobControl> control_ = std::make_shared<JobControl>();
  Napi::Promise::Deferred deferred_;
  Channel channel_;
};

/// The threads Job::run started in one environment.
class JobThreads {
 public:
  static JobThreads& of(Napi::Env env);
  ~JobThreads();

  void start(std::shared_ptr<Job> job, std::function<void()> body);
  /// Joins a thread whose last act was to say so.
  void finished(Job* job);

 private:
  struct Entry {
    std::shared_ptr<Job> job;
    std::thread thread;
  };
  std::vector<Entry> entries_;
};

}  // namespace subbit::binding
