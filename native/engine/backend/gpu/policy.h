// Which kernel does a job, and in how many pieces: the one place where device families differ. Pure
// tables, so that what a device will run can be tested without it. Whatever is chosen, the numbers
// are the same; only the time is not.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "formats/stored_weight.h"

namespace subbit {

/// How a matrix of signs is multiplied: K1 counts bits of activation planes, K2 selects codes.
enum class SignKernel { kPopcount, kSelect };

/// How a prompt's signs are multiplied: four tokens at a time by popcount, or unpacked into tiles
/// and by simdgroup_matrix. The integers are the same.
enum class PromptKernel { kColumns, kMatrix };

struct GpuPolicy {
  SignKernel sign_kernel = SignKernel::kPopcount;
  PromptKernel prompt_kernel = PromptKernel::kColumns;
  /// A call of so many tokens is a prompt: its attention goes in blocks, and what is not signs is
  /// multiplied by simdgroup_matrix (tables always are, for two tokens and more). At least 8.
  int64_t prompt_tokens = 9;
  /// Attention over more positions than this is split, so that one token's heads fill the device.
  int64_t split_positions = 1024;
  uint32_t most_splits = 16;
  /// Prefill is cut into command buffers of about this many weight bits times tokens: a fraction of
  /// a second, far from the watchdog, and an abort is not kept waiting.
  double buffer_work = 0;
};

/// `family` as in GpuFacts; 0 gives what suits the slowest.
GpuPolicy gpu_policy(int family);

/// "popcount columns": what a trial has chosen.
std::string policy_name(const GpuPolicy& policy);

/// Parts of a cache of `positions` that one query row's attention is split into.
uint32_t attention_splits(const GpuPolicy& policy, int64_t tokens, int64_t positions);

/// What stores the integers of a matrix product.
enum class Epilogue { kSums, kRank, kStore, kAdd, kAddNorm, kSwiglu, kQkv };

/// The kernel's name, a literal; empty where there is none: code84 has no rank, a table neither
/// rank nor fusions.
std::string_view gemv_kernel(SignKernel sign, StoredWeight::TermTag matrix, Epilogue epilogue);
/// The same for several tokens, shader::kColumnTokens of which share one load of the words: by
/// popcount, whatever serves single tokens. Empty for a table.
std::string_view columns_kernel(StoredWeight::TermTag matrix, Epilogue epilogue);
/// The sums of a prompt by simdgroup_matrix.
std::string_view gemm_kernel(StoredWeight::TermTag matrix);

/// How many tokens a call has, as far as kernels differ by it.
enum class CallSize { kOne, kFew, kPrompt };
CallSize call_size(const GpuPolicy& policy, int64_t tokens);
/// For weights of floats or of groups: a token, shader::kColumnTokens at a time, or a prompt by
/// simdgroup_matrix. Empty for a packed weight.
std::string_view plain_kernel(StoredWeight::Kind kind, OutputMode mode, CallSize size);

/// The rows of an embedding as floats. Empty for a packed weight.
std::string_view embed_kernel(StoredWeight::Kind kind);

/// What keeps a cache of one type and attends over it: a token at a time, in parts of its positions
/// (attention_combine joins them), in blocks of a prompt's tokens.
struct KvKernels {
  std::string_view append;
  std::string_view attend;
  std::string_view split;
  std::string_view blocks;
};
KvKernels kv_kernels(KvType type);

}  // namespace subbit
