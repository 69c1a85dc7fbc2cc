// Chooses the sign kernel, lays out operands for it and splits rows over the threads.
#include "formats/signs/sign_dot.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "formats/signs/layout.h"
#include "formats/signs/sign_kernel.h"

namespace subbit {
namespace {

void load_operand(const SignKernel& kernel, const QuantizedRows& in, SignOperand& out,
                  ThreadPool& pool) {
  out.kernel = &kernel;
  out.source = nullptr;
  load_codes(in, in.cols, out.codes, pool);
  const int64_t stride = operand_chunks(in.chunks) * kernel.chunk_bytes;
  uint8_t* const tables = reserve(out.tables, in.rows * stride);
  pool.parallel_for(in.rows, 4, [&](Range range) {
    for (int64_t row = range.begin; row < range.end; ++row)
      kernel.load(out.codes, row, tables + row * stride);
  });
}

/// One token for threads that will each load it: nothing yet but its exponent and their memory.
void prepare_copies(const SignKernel& kernel, const QuantizedRows& in, SignOperand& out,
                    int threads) {
  out.kernel = &kernel;
  out.source = &in;
  ++out.number;
  size_loaded_codes(in, in.cols, out.codes);
  out.codes.exponents[0] = common_exponent(in, 0, out.codes.headroom);
  if (std::ssize(out.copies) == threads && out.copied_chunks >= in.chunks) return;
  if (std::ssize(out.copies) != threads) out.copies = std::vector<SignOperand::Copy>(threads);
  out.copied_chunks = in.chunks;
  for (SignOperand::Copy& copy : out.copies) {
    size_loaded_codes(in, in.cols, copy.codes);
    reserve(copy.tables, operand_chunks(in.chunks) * kernel.chunk_bytes);
  }
}

/// The worker's copy, made now unless it has been.
const SignOperand::Copy& copy_for(const SignOperand& operand, int worker) {
  SignOperand::Copy& copy = operand.copies[static_cast<size_t>(worker)];
  if (copy.number == operand.number) return copy;
  copy.codes.rows = 1;
  copy.codes.chunks = operand.codes.chunks;
  copy.codes.headroom = operand.codes.headroom;
  load_codes_row(*operand.source, 0, copy.codes, 0);
  operand.kernel->load(copy.codes, 0, copy.tables.data());
  copy.number = operand.number;
  return copy;
}

std::span<const SignKernel* const> usable_kernels() {
  static const std::vector<const SignKernel*> usable = [] {
    int count = 0;
    const SignKernel* const* kernels = sign_kernels(&count);
    std::vector<const SignKernel*> found(kernels, kernels + count);
    std::erase_if(found, [](const SignKernel* kernel) { return !kernel->usable(); });
    return found;
  }();
  return usable;
}

/// For one token: the fastest of those for all, which the portable one ends.
const SignKernel& decoding_kernel() { return *usable_kernels().front(); }

/// That and those for prompts only.
std::vector<const SignKernel*> prompt_candidates() {
  std::vector<const SignKernel*> candidates = {&decoding_kernel()};
  for (const SignKernel* kernel : usable_kernels())
    if (kernel->used_for == SignKernel::For::kPrompts) candidates.push_back(kernel);
  return candidates;
}

/// Seconds of a product of 32 tokens that takes part of a millisecond: the best of a few.
double seconds_of(const SignKernel& kernel) {
  constexpr int64_t kTokens = 32;
  constexpr int64_t kColumns = 2048;
  constexpr int64_t kRows = 256;
  ThreadPool alone(1);
  std::vector<float> values(kTokens * kColumns);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 101) - 50.0f;
  QuantizedRows codes;
  quantize_rows(ConstMatrix(values.data(), kTokens, kColumns), codes, alone);
  std::vector<std::byte> words(sign_bytes(kRows, kColumns));
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::byte>(i * 131 >> 3);
  std::vector<int32_t> sums(kTokens * kRows);
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 4; ++round) {
    const auto start = std::chrono::steady_clock::now();
    SignOperand operand;
    load_operand(kernel, codes, operand, alone);
    sign_dot({words.data(), kRows, kColumns}, operand, {sums.data(), kTokens, kRows}, alone);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

const SignKernel& fastest_prompt_kernel() {
  static const SignKernel* const fastest = [] {
    const auto candidates = prompt_candidates();
    if (candidates.size() == 1) return candidates.front();
    std::vector<double> seconds;
    for (const SignKernel* kernel : candidates) seconds.push_back(seconds_of(*kernel));
    return candidates[static_cast<size_t>(std::min_element(seconds.begin(), seconds.end()) -
                                          seconds.begin())];
  }();
  return *fastest;
}

std::atomic<const SignKernel*> chosen_prompt_kernel{nullptr};

const SignKernel& prompt_kernel() {
  const SignKernel* chosen = chosen_prompt_kernel.load(std::memory_order_relaxed);
  return chosen != nullptr ? *chosen : fastest_prompt_kernel();
}

/// Eights: a chunk of what comes out, and some kernels go four quads abreast.
int64_t in_eights(int64_t quads) { return (quads + 7) / 8 * 8; }

/// Quads that several tokens pass over before the next ones: 64 KiB of words, which stay in a
/// second-level cache meanwhile, and enough that a token's tables are not loaded too often.
int64_t quads_per_panel(int64_t chunks) {
  return in_eights(65536 / (kUnitBytes * std::max<int64_t>(1, chunks)));
}

/// Quads that threads claim and take from each other: at least a panel, which for one token memory
/// gives in two microseconds; of a prompt half of a thread's share.
int64_t quads_per_claim(int64_t quads, int64_t chunks, int64_t tokens, int threads) {
  if (threads == 1) return quads;
  const int64_t panel = quads_per_panel(chunks);
  return tokens == 1 ? panel : std::max(panel, in_eights((quads - 1) / (2 * threads) + 1));
}

/// Tokens of a claim: all, unless a small matrix alone would leave threads without work. Two
/// threads multiplied 128 tokens with the o_proj of a 110M model no faster than one.
int64_t tokens_per_claim(int64_t tokens, int64_t claims, int threads) {
  const int64_t blocks = (4 * threads - 1) / claims + 1;
  constexpr int64_t kLeast = 8;  // pass over words in a cache often enough
  if (threads == 1 || tokens <= kLeast) return tokens;
  return std::max(kLeast, ((tokens - 1) / blocks + 2) / 2 * 2);  // kernels take tokens in pairs
}

/// `task` for some of its tokens.
SignTask for_tokens(SignTask task, int64_t first, int64_t token_bytes) {
  task.operand += first * token_bytes;
  task.totals += first;
  return task;
}

int32_t total_of(const LoadedCodes& codes, int64_t row, int64_t first_chunk, int64_t chunks) {
  const int32_t* magnitudes = codes.magnitudes.data() + row * codes.chunks + first_chunk;
  return std::accumulate(magnitudes, magnitudes + chunks, 0);
}

/// One token passes over all quads, several over a few at a time.
void multiply_panels(const SignKernel& kernel, SignTask task, Range quads,
                     MatrixView<int32_t> out) {
  const int64_t panel = out.rows == 1 ? quads.end - quads.begin : quads_per_panel(task.chunks);
  for (int64_t first = quads.begin; first < quads.end; first += panel) {
    task.first_quad = first;
    task.last_quad = std::min(first + panel, quads.end);
    kernel.multiply(task, out);
  }
}

/// Quads of a matrix that has to be written out first, a few at a time while they stay in cache.
void multiply_expanded(const SignKernel& kernel, const SignWords& matrix, const SignTask& task,
                       Range quads, MatrixView<int32_t> out) {
  const int64_t quad_bytes = task.chunks * kUnitBytes;
  const int64_t batch = std::clamp<int64_t>(8192 / quad_bytes, 1, quads.end - quads.begin);
  Buffer<std::byte> units(batch * quad_bytes);
  SignTask part = task;
  part.words = units.data();
  for (int64_t first = quads.begin; first < quads.end; first += batch) {
    part.last_quad = std::min(batch, quads.end - first);
    for (int64_t q = 0; q < part.last_quad; ++q) {
      matrix.expand(matrix, first + q, units.data() + q * quad_bytes);
    }
    part.rows = std::min(part.last_quad * kQuad, task.rows - first * kQuad);
    kernel.multiply(part, out.cols_from(first * kQuad, part.rows));
  }
}

}  // namespace

const SignKernel* const* sign_kernels(int* count) {
  static const SignKernel* const kernels[] = {
#if defined(__x86_64__)
      &kAvx512SignKernel,
      &kAvx2SignKernel,
      &kPortableSignKernel,
#elif defined(__aarch64__)
      &kNeonDotSignKernel,
      &kNeonSignKernel,
      &kPortableSignKernel,
      &kI8mmSignKernel,
#else
      &kPortableSignKernel,
#endif
#if defined(__APPLE__)
      &kAccelerateSignKernel,
#endif
  };
  *count = static_cast<int>(std::size(kernels));
  return kernels;
}

const char* sign_dot_kernel_name() { return decoding_kernel().name; }
const char* prompt_kernel_name() { return prompt_kernel().name; }

std::vector<std::string_view> prompt_kernels() {
  std::vector<std::string_view> names;
  for (const SignKernel* kernel : prompt_candidates()) names.emplace_back(kernel->name);
  return names;
}

bool choose_prompt_kernel(std::string_view name) {
  const SignKernel* chosen = nullptr;
  for (const SignKernel* kernel : prompt_candidates())
    if (name == kernel->name) chosen = kernel;
  if (chosen == nullptr && !name.empty()) return false;
  chosen_prompt_kernel.store(chosen, std::memory_order_relaxed);
  return true;
}

uint64_t sign_operand_bytes(int64_t rows, int64_t columns) {
  rows += kMostCopies;
  const int64_t chunks = operand_chunks(chunks_of(columns));
  int64_t chunk_bytes = 0;  // of whichever kernel is chosen in the end
  for (const SignKernel* kernel : usable_kernels())
    chunk_bytes = std::max(chunk_bytes, kernel->chunk_bytes);
  return loaded_codes_bytes(rows, columns) + static_cast<uint64_t>(rows * chunks * chunk_bytes);
}

const LoadedCodes& codes_for(const SignOperand& operand, int worker) {
  return operand.source == nullptr ? operand.codes : copy_for(operand, worker).codes;
}

void load_sign_operand(const QuantizedRows& in, SignOperand& out, ThreadPool& pool) {
  if (in.rows == 1 && pool.threads() > 1 && pool.threads() <= kMostCopies)
    return prepare_copies(decoding_kernel(), in, out, pool.threads());
  load_operand(in.rows == 1 ? decoding_kernel() : prompt_kernel(), in, out, pool);
}

void sign_dot(const SignWords& matrix, const SignOperand& operand, MatrixView<int32_t> out,
              ThreadPool& pool, FunctionRef<void(Range)> done) {
  const SignKernel& kernel = *operand.kernel;
  const LoadedCodes& codes = operand.codes;
  const int64_t chunks = chunks_of(matrix.columns);
  CHECK(matrix.first_chunk % 2 == 0 && matrix.first_chunk + chunks <= codes.chunks);
  CHECK(out.rows == codes.rows && out.cols == matrix.rows);

  const bool copies = operand.source != nullptr;
  CHECK(!copies || std::ssize(operand.copies) >= pool.threads());
  int32_t few_totals[8];  // decoding allocates nothing
  std::vector<int32_t> many_totals(codes.rows > std::ssize(few_totals) ? codes.rows : 0);
  int32_t* const totals = many_totals.empty() ? few_totals : many_totals.data();
  for (int64_t row = 0; row < codes.rows && !copies; ++row)
    totals[row] = total_of(codes, row, matrix.first_chunk, chunks);
  SignTask task;
  task.words = matrix.words;
  task.chunks = chunks;
  task.rows = matrix.rows;
  task.operand = operand.tables.data();
  task.operand_chunks = operand_chunks(codes.chunks);
  task.first_chunk = matrix.first_chunk;
  task.totals = totals;
  const int64_t quads = quads_of(matrix.rows);
  CHECK(!done || out.rows == 1);
  const int64_t claim = quads_per_claim(quads, chunks, out.rows, pool.threads());
  const int64_t claims = (quads - 1) / claim + 1;
  const int64_t block =
      matrix.expand == nullptr ? tokens_per_claim(out.rows, claims, pool.threads()) : out.rows;
  const int64_t blocks = (out.rows - 1) / block + 1;
  const auto multiply = [&](Range range) {
    SignTask own = task;
    int32_t own_total;
    if (copies) {
      const SignOperand::Copy& copy = copy_for(operand, range.worker);
      own_total = total_of(copy.codes, 0, matrix.first_chunk, chunks);
      own.operand = copy.tables.data();
      own.totals = &own_total;
    }
    own.then = range.then;
    const int64_t together = blocks == 1 ? range.end - range.begin : 1;
    for (int64_t at = range.begin; at < range.end; at += together) {
      const int64_t begin = at % claims * claim;
      const Range run = {begin, std::min(begin + together * claim, quads), range.worker};
      if (matrix.expand != nullptr) {
        multiply_expanded(kernel, matrix, own, run, out);
      } else {
        const int64_t token = at / claims * block;
        multiply_panels(kernel, for_tokens(own, token, own.operand_chunks * kernel.chunk_bytes),
                        run, out.rows_from(token, std::min(block, out.rows - token)));
      }
      if (done) done({run.begin * kQuad, std::min(run.end * kQuad, matrix.rows), run.worker});
    }
  };
  // A prompt's products wait for instructions.
  const bool streams = out.rows == 1 && matrix.expand == nullptr;
  const Stream words = {streams ? matrix.words : nullptr, claim * chunks * kUnitBytes};
  pool.parallel_for(claims * blocks, 1, multiply, words);
}

}  // namespace subbit
