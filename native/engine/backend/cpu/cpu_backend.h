// The back end that computes at once, on the host's processor.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "base/thread_pool.h"

namespace subbit {

/// Results depend neither on the pool's thread count nor on how a prompt is cut into calls (as far
/// as the weights' own formats keep that promise). `pool` must outlive the back end, which is used
/// from one thread at a time.
std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool);

/// The BackendScratch of this back end.
uint64_t cpu_scratch_bytes(const BackendWork& work);

}  // namespace subbit
