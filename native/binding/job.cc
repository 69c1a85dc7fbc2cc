// Jobs, channels and the threads behind them.
#include "job.h"

#include <algorithm>
#include <utility>

#include "addon.h"
#include "convert.h"

namespace subbit::binding {

Channel::Channel(Napi::Env env, Napi::Function callback)
    : function_(Napi::ThreadSafeFunction::New(env, callback, "subbit", 0, 1)) {}

void Channel::post(Message message) {
  if (gone_) return;
  auto owned = std::make_unique<Message>(std::move(message));
  const napi_status status = function_.NonBlockingCall(
      owned.get(), [](Napi::Env env, Napi::Function callback, Message* raw) {
        const std::unique_ptr<Message> message(raw);
        if (env != nullptr) (*message)(env, callback);  // null: the environment is going down
      });
  if (status == napi_ok) {
    owned.release();
  } else {
    gone_ = true;  // closing: the function must not be touched again
  }
}

void Channel::close() {
  if (!gone_.exchange(true)) function_.Release();
}

Job::Job(Napi::Env env, Napi::Function callback)
    : deferred_(Napi::Promise::Deferred::New(env)), channel_(env, callback) {}

Napi::Object Job::handle(Napi::Env env) {
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("promise", deferred_.Promise());
  const std::shared_ptr<JobControl> control = control_;
  handle.Set("abort", Napi::Function::New(
                          env, [control](const Napi::CallbackInfo&) { control->abort = true; }));
  return handle;
}

void Job::settle(Channel::Message message) {
  channel_.post([self = shared_from_this(), message = std::move(message)](Napi::Env env,
                                                                          Napi::Function callback) {
    JobThreads::of(env).finished(self.get());
    message(env, callback);
  });
  channel_.close();
}

void Job::resolve(ToJs result) {
  settle([this, result = std::move(result)](Napi::Env env, Napi::Function) {
    deferred_.Resolve(result(env));
  });
}

void Job::reject(Error error) {
  settle([this, error = std::move(error)](Napi::Env env, Napi::Function) {
    deferred_.Reject(from_error(env, error));
  });
}

Napi::Object Job::run(Napi::Env env, Napi::Function on_progress,
                      std::function<ToJs(JobControl&)> work) {
  auto job = std::make_shared<Job>(env, on_progress);
  // The control outlives neither: a plain pointer, or job and control would own each other.
  job->control()->on_progress = [raw = job.get()](const Progress& progress) {
    raw->channel().post([progress](Napi::Env env, Napi::Function callback) {
      callback.Call({from_progress(env, progress)});
    });
  };
  Napi::Object handle = job->handle(env);
  JobThreads::of(env).start(job, [job, work = std::move(work)] {
    try {
      job->resolve(work(*job->control()));
    } catch (...) {
      job->reject(current_error());
    }
  });
  return handle;
}

JobThreads& JobThreads::of(Napi::Env env) { return env.GetInstanceData<AddonData>()->threads; }

JobThreads::~JobThreads() {
  for (Entry& entry : entries_) entry.job->control()->abort = true;
  for (Entry& entry : entries_) entry.thread.join();
}

void JobThreads::start(std::shared_ptr<Job> job, std::function<void()> body) {
  entries_.push_back({std::move(job), std::thread(std::move(body))});
}

void JobThreads::finished(Job* job) {
  const auto at = std::find_if(entries_.begin(), entries_.end(),
                               [&](const Entry& entry) { return entry.job.get() == job; });
  if (at == entries_.end()) return;  // a job of a model's engine thread
  at->thread.join();
  entries_.erase(at);
}

}  // namespace subbit::binding
