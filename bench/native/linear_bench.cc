// How fast linears of a large model are multiplied, without having one: random words, since speed
// does not depend on their values. Three questions, answered against the read bandwidth measured in
// the same rounds: what each sign kernel does alone from the cache and from memory, what whole
// linears take with everything around the kernel, and what a head takes. Each round measures every
// row once, in turn, so that a neighbour on the same processors spoils rounds, not rows; the table
// holds medians.
//
// Usage: linear_bench [--threads 1] [--tokens 1,32] [--rounds 7] [--only text] [--json]
//
// Seconds are processor time over the number of threads, which is what the wall says on a machine
// that does nothing else; `cpu` is their ratio: well below 1, other processes had the machine.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <time.h>
#include <vector>

#include "base/buffer.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "base/wide_loop.h"
#include "formats/format.h"
#include "formats/int4/int4.h"
#include "formats/packed/layout.h"
#include "formats/packed/pack.h"
#include "formats/packed/packed.h"
#include "formats/signs/layout.h"
#include "formats/signs/multiply_scratch.h"
#include "formats/signs/quantized_rows.h"
#include "formats/signs/sign_kernel.h"

namespace subbit {
namespace {

using Clock = std::chrono::steady_clock;

double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// The generator is a multiply and a shift: a gigabyte in a fraction of a second.
Buffer<std::byte> random_bytes(uint64_t count, uint64_t seed) {
  Buffer<std::byte> bytes(static_cast<int64_t>((count + 7) / 8 * 8));
  uint64_t state = seed * 2 + 1;
  for (int64_t i = 0; i < bytes.size(); i += 8) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t word = state ^ state >> 29;
    std::memcpy(bytes.data() + i, &word, sizeof(word));
  }
  return bytes;
}

struct Row {
  std::string name;
  int threads = 1;
  int64_t tokens = 1;
  double bytes = 0;  // of weights read in one run
  double bits = 0;   // stored weight bits times tokens, multiplied in one run
  double copies = 1;
  std::function<void()> run;
  double target_seconds = 0.02;  // runs are repeated to about this
  std::vector<double> seconds, busy;
};

void sample(Row& row) {
  int64_t runs = 0;
  const double processor = processor_seconds();
  const auto start = Clock::now();
  double wall = 0;
  do {
    row.run();
    ++runs;
    wall = std::chrono::duration<double>(Clock::now() - start).count();
  } while (wall < row.target_seconds);
  const double busy = (processor_seconds() - processor) / row.threads;
  row.seconds.push_back(busy / static_cast<double>(runs));
  row.busy.push_back(busy / wall);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// ---- read bandwidth -----------------------------------------------------------------------------

uint64_t sum_words(const uint64_t* words, int64_t count) {
  uint64_t sum = 0;
  run_wide([&] {
    uint64_t lanes[16] = {};
    for (int64_t i = 0; i + 16 <= count; i += 16)
      for (int64_t l = 0; l < 16; ++l) lanes[l] += words[i + l];
    for (const uint64_t lane : lanes) sum += lane;
  });
  return sum;
}

Row bandwidth_row(ThreadPool& pool, const Buffer<std::byte>& memory) {
  Row row;
  row.name = "read memory";
  row.threads = pool.threads();
  row.bytes = static_cast<double>(memory.size());
  row.run = [&pool, &memory] {
    constexpr int64_t kPiece = 1 << 20;
    std::atomic<uint64_t> sink{0};
    pool.parallel_for(memory.size() / kPiece, 1, [&](Range range) {
      sink += sum_words(reinterpret_cast<const uint64_t*>(memory.data() + range.begin * kPiece),
                        (range.end - range.begin) * kPiece / 8);
    });
  };
  return row;
}

// ---- kernels alone ------------------------------------------------------------------------------

QuantizedRows random_codes(int64_t tokens, int64_t cols, ThreadPool& pool) {
  Rng rng(7);
  std::vector<float> values(static_cast<size_t>(tokens * cols));
  for (float& v : values) v = rng.normal();
  QuantizedRows out;
  quantize_rows(ConstMatrix(values.data(), tokens, cols), out, pool);
  return out;
}

/// One matrix of 1600 x 4096 again and again (0.8 MB), or a large memory as many such matrices.
Row kernel_row(const SignKernel& kernel, int64_t tokens, const Buffer<std::byte>& memory,
               bool cached) {
  constexpr int64_t kRows = 1600;
  constexpr int64_t kCols = 4096;
  struct State {
    LoadedCodes codes;
    Buffer<uint8_t> operand;
    std::vector<int32_t> totals;
    std::vector<int32_t> sums;
  };
  auto state = std::make_shared<State>();
  ThreadPool pool(1);
  load_codes(random_codes(tokens, kCols, pool), kCols, state->codes, pool);
  const int64_t stride = operand_chunks(state->codes.chunks) * kernel.chunk_bytes;
  state->operand = Buffer<uint8_t>(tokens * stride);
  for (int64_t t = 0; t < tokens; ++t)
    kernel.load(state->codes, t, state->operand.data() + t * stride);
  state->totals.resize(static_cast<size_t>(tokens));
  state->sums.resize(static_cast<size_t>(tokens * kRows));
  const auto bytes = static_cast<int64_t>(sign_bytes(kRows, kCols));
  const int64_t matrices = cached ? 1 : memory.size() / bytes;
  Row row;
  row.name = std::string("kernel ") + kernel.name + (cached ? " cached" : " memory");
  row.tokens = tokens;
  row.bytes = static_cast<double>(bytes * matrices);
  row.bits = 8 * row.bytes * static_cast<double>(tokens);
  row.run = [=, &kernel, &memory] {
    for (int64_t m = 0; m < matrices; ++m) {
      SignTask task;
      task.words = memory.data() + m * bytes;
      task.chunks = chunks_of(kCols);
      task.rows = kRows;
      task.operand = state->operand.data();
      task.operand_chunks = operand_chunks(task.chunks);
      task.totals = state->totals.data();
      constexpr int64_t kClaim = 32;  // quads: 64 KiB, as sign_dot hands them out
      for (task.first_quad = 0; task.first_quad < quads_of(kRows); task.first_quad += kClaim) {
        task.last_quad = std::min(task.first_quad + kClaim, quads_of(kRows));
        kernel.multiply(task, {state->sums.data(), tokens, kRows});
      }
    }
  };
  return row;
}

// ---- whole linears ------------------------------------------------------------------------------

struct OwnedWeight {
  Buffer<std::byte> bytes;
  std::unique_ptr<Weight> weight;
};

OwnedWeight view_weight(const Format& format, Buffer<std::byte> bytes, uint64_t size, Shape shape) {
  TensorView tensor;
  tensor.name = "bench";
  tensor.dtype = DType::kU8;
  tensor.shape = {static_cast<int64_t>(size)};
  tensor.bytes = {bytes.data(), size};
  auto weight = format.view(tensor, shape);
  return {std::move(bytes), std::move(weight)};
}

/// A one-term factored linear of random words. Rows and columns are multiples of 32, so that there
/// are no padding bits.
OwnedWeight random_factored(Shape shape, int64_t rank, uint64_t seed) {
  const PackedSize size{shape, false, false, {{3, rank, shape.cols, false, 0, 0}}};
  const uint64_t total = packed_bytes(size);
  Buffer<std::byte> bytes = random_bytes(total, seed);
  LinearHead head{};
  std::memcpy(head.magic, kPackedMagic, sizeof(head.magic));
  head.terms = 1;
  head.rows = static_cast<uint32_t>(shape.rows);
  head.cols = static_cast<uint32_t>(shape.cols);
  TermHead term{};
  term.kind = 3;
  term.parameter = static_cast<uint16_t>(rank / kRankUnit);
  term.columns = head.cols;
  term.gain = 1e-9f;
  std::memcpy(bytes.data(), &head, sizeof(head));
  std::memcpy(bytes.data() + sizeof(head), &term, sizeof(term));
  const uint64_t words = sign_bytes(rank, shape.cols) + sign_bytes(shape.rows, rank);
  const uint64_t alignment = section_alignment(words);
  const uint64_t scales_at = sizeof(head) + sizeof(term);
  const uint64_t words_at = align_up(scales_at + 2 * static_cast<uint64_t>(shape.rows), alignment);
  std::memset(bytes.data() + scales_at, 0, words_at - scales_at);
  const Half scale = to_half(20000.0f);
  for (int64_t i = 0; i < shape.rows; ++i)
    std::memcpy(bytes.data() + scales_at + 2 * static_cast<uint64_t>(i), &scale, sizeof(scale));
  std::memset(bytes.data() + words_at + words, 0, total - words_at - words);
  return view_weight(packed_format(), std::move(bytes), total, shape);
}

OwnedWeight random_int4(Shape shape, uint64_t seed) {
  const uint64_t size = int4_bytes(shape);
  Buffer<std::byte> bytes = random_bytes(size, seed);
  const auto codes = static_cast<uint64_t>(shape.count() / 2);
  const Half scale = to_half(0.001f);
  std::memset(bytes.data() + codes, 0, size - codes);
  for (int64_t i = 0; i < shape.count() / 64; ++i)
    std::memcpy(bytes.data() + codes + 2 * static_cast<uint64_t>(i), &scale, sizeof(scale));
  return view_weight(int4_format(), std::move(bytes), size, shape);
}

/// All of `weights`, one after another, as decoding would: quantize, then multiply.
Row weights_row(std::string name, std::shared_ptr<std::vector<OwnedWeight>> weights, double bits,
                int64_t tokens, ThreadPool& pool) {
  const Shape shape = weights->front().weight->shape();
  struct State {
    std::vector<float> in, out;
    QuantizedRows codes;
    MultiplyScratch scratch;
  };
  auto state = std::make_shared<State>();
  Rng rng(3);
  state->in.resize(static_cast<size_t>(tokens * shape.cols));
  state->out.resize(static_cast<size_t>(tokens * shape.rows));
  for (float& v : state->in) v = rng.normal();
  Row row;
  row.name = std::move(name);
  row.threads = pool.threads();
  row.tokens = tokens;
  for (const OwnedWeight& owned : *weights)
    row.bytes += static_cast<double>(owned.weight->packed_bytes());
  row.copies = static_cast<double>(weights->size());
  row.bits = bits * row.copies * static_cast<double>(tokens);
  row.run = [=, &pool] {
    const ConstMatrix in(state->in.data(), tokens, shape.cols);
    for (const OwnedWeight& owned : *weights) {
      quantize_rows(in, state->codes, pool);
      state->scratch.loaded = nullptr;
      owned.weight->multiply({in, nullptr, &state->codes, &state->scratch},
                             Matrix(state->out.data(), tokens, shape.rows), OutputMode::kOverwrite,
                             pool);
    }
  };
  return row;
}

struct LinearShape {
  const char* name;
  Shape shape;
  int64_t rank;
};

/// Llama-2-7B at 0.79 bits a weight, as formats and plans have it.
constexpr LinearShape kLinears[] = {{"qkv 12288x4096 r=2432", {12288, 4096}, 2432},
                                    {"o 4096x4096 r=1600", {4096, 4096}, 1600},
                                    {"gate_up 22016x4096 r=2720", {22016, 4096}, 2720},
                                    {"down 4096x11008 r=2368", {4096, 11008}, 2368}};
constexpr double kBlocks = 32;
constexpr double kMemoryBytes = 96e6;  // of each linear: copies enough to pass every cache

// ---- report -------------------------------------------------------------------------------------

struct Arguments {
  int threads = 1;
  int rounds = 7;
  std::vector<int64_t> tokens = {1, 32};
  std::string only;
  bool json = false;
};

void print(const Row& row, double bandwidth, const Arguments& arguments, const char*& separator) {
  const double seconds = median(row.seconds);
  const double gb_s = row.bytes / seconds * 1e-9;
  const double gbit_s = row.bits / seconds * 1e-9;
  const auto [fast, slow] = std::minmax_element(row.seconds.begin(), row.seconds.end());
  const double spread = (*slow - *fast) / seconds;
  const double busy = median(row.busy);
  if (arguments.json) {
    std::printf(
        "%s{\"bench\":\"linear\",\"name\":\"%s\",\"threads\":%d,\"tokens\":%lld,"
        "\"seconds\":%.6g,\"bytes\":%.0f,\"gb_s\":%.3f,\"bandwidth_fraction\":%.4f,"
        "\"gbit_s\":%.2f,\"spread\":%.3f,\"cpu\":%.3f}",
        separator, row.name.c_str(), row.threads, static_cast<long long>(row.tokens), seconds,
        row.bytes, gb_s, gb_s / bandwidth, gbit_s, spread, busy);
    separator = ",\n ";
  } else {
    std::printf("%-28s %3d %5lld %10.1f %8.1f %7.0f%% %9.1f %7.0f%% %5.2f\n", row.name.c_str(),
                row.threads, static_cast<long long>(row.tokens), 1e6 * seconds, gb_s,
                100 * gb_s / bandwidth, gbit_s, 100 * spread, busy);
  }
}

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") {
      arguments.json = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const char* value = argv[++i];
    if (argument == "--threads") {
      arguments.threads = std::max(1, std::atoi(value));
    } else if (argument == "--rounds") {
      arguments.rounds = std::max(1, std::atoi(value));
    } else if (argument == "--only") {
      arguments.only = value;
    } else if (argument == "--tokens") {
      arguments.tokens.clear();
      std::string list = value;
      for (char* word = std::strtok(list.data(), ","); word; word = std::strtok(nullptr, ","))
        arguments.tokens.push_back(std::max(1, std::atoi(word)));
    } else {
      return false;
    }
  }
  return true;
}

/// Milliseconds a token of all blocks' linears, from the rows of one block's.
void print_model(const std::vector<Row>& rows, const Arguments& arguments) {
  for (const int64_t tokens : arguments.tokens) {
    double seconds = 0;
    size_t found = 0;
    for (const LinearShape& linear : kLinears) {
      for (const Row& row : rows) {
        if (row.name != linear.name || row.tokens != tokens) continue;
        seconds += median(row.seconds) / row.copies;
        ++found;
      }
    }
    if (found != std::size(kLinears)) continue;
    std::printf("7B body, %lld tokens at once, %d threads: %.2f ms a token\n",
                static_cast<long long>(tokens), arguments.threads,
                1e3 * kBlocks * seconds / static_cast<double>(tokens));
  }
}

int run(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: linear_bench [--threads n] [--tokens 1,32] [--rounds n] [--only text] "
                 "[--json]\n");
    return 2;
  }
  ThreadPool pool(arguments.threads);
  const Buffer<std::byte> memory = random_bytes(uint64_t{256} << 20, 1);
  const auto wanted = [&](const std::string& name) {
    return name.find(arguments.only) != std::string::npos;
  };
  std::vector<Row> rows;
  rows.push_back(bandwidth_row(pool, memory));
  int count = 0;
  const SignKernel* const* kernels = sign_kernels(&count);
  for (int k = 0; k < count; ++k) {
    if (!kernels[k]->usable() || !wanted(std::string("kernel ") + kernels[k]->name)) continue;
    for (const int64_t tokens : arguments.tokens) {
      rows.push_back(kernel_row(*kernels[k], tokens, memory, true));
      if (tokens == 1) rows.push_back(kernel_row(*kernels[k], tokens, memory, false));
    }
  }
  const auto add_weights = [&](const std::string& name, double bits, const auto& make) {
    if (!wanted(name)) return;
    auto weights = std::make_shared<std::vector<OwnedWeight>>();
    const int copies = static_cast<int>(std::max(1.0, std::round(kMemoryBytes / (bits / 8))));
    for (int i = 0; i < copies; ++i) weights->push_back(make(static_cast<uint64_t>(i)));
    for (const int64_t tokens : arguments.tokens)
      rows.push_back(weights_row(name, weights, bits, tokens, pool));
  };
  for (const auto& [name, shape, rank] : kLinears) {
    const auto bits =
        8.0 * static_cast<double>(sign_bytes(rank, shape.cols) + sign_bytes(shape.rows, rank));
    add_weights(name, bits, [&](uint64_t seed) { return random_factored(shape, rank, seed); });
  }
  const Shape head{32000, 4096};
  add_weights("head int4 32000x4096", 4.0 * static_cast<double>(head.count()),
              [&](uint64_t seed) { return random_int4(head, seed); });
  for (int round = 0; round < arguments.rounds; ++round)
    for (Row& row : rows) sample(row);
  const double bandwidth = rows[0].bytes / median(rows[0].seconds) * 1e-9;
  const char* separator = "[";
  if (!arguments.json)
    std::printf("medians of %d rounds\n%-28s %3s %5s %10s %8s %8s %9s %8s %5s\n", arguments.rounds,
                "", "thr", "tok", "us", "GB/s", "of read", "Gbit/s", "spread", "cpu");
  for (const Row& row : rows) print(row, bandwidth, arguments, separator);
  if (arguments.json)
    std::printf("]\n");
  else
    print_model(rows, arguments);
  return 0;
}

}  // namespace
}  // namespace subbit

int main(int argc, char** argv) { return subbit::run(argc, argv); }
