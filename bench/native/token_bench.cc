// Where the time of a token goes: a model's forward pass, each operation timed apart and held
// against what it reads and what memory could give. Says what binds: an operation near the
// bandwidth waits for memory; one far below it is instructions; what is between the operations is
// overhead.
//
// Usage: token_bench <model> [--threads 1] [--tokens 1] [--position 0] [--rounds 20] [--json]
// --tokens    of one forward call: 1 is decoding, more is prefill
// --position  of the first of them; what lies before is made up
//
// Seconds are processor time over the number of threads: what the wall says on a machine that does
// nothing else, as long as all threads are busy.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "base/process.h"
#include "decoding/decoder.h"
#include "engine.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace subbit {
namespace {

struct Arguments {
  std::string model;
  int threads = 1;
  int64_t tokens = 1;
  int64_t position = 0;
  int rounds = 20;
  bool json = false;
};

/// What one operation took in one forward call, and what it read.
struct Cost {
  double seconds = 0;
  double bytes = 0;
};
using Costs = std::map<std::string, Cost>;

/// Counts every operation into the call's costs.
class TimedBackend final : public ForwardingBackend {
 public:
  explicit TimedBackend(Backend& inner) : ForwardingBackend(inner) {}

  Costs take() { return std::exchange(costs_, {}); }

  void embed(const Weight& table, std::span<const int32_t> tokens, Tensor h) override {
    const double row = static_cast<double>(table.packed_bytes()) / table.shape().rows;
    timed("embed", row * static_cast<double>(tokens.size()),
          [&] { inner_.embed(table, tokens, h); });
  }
  void rms_norm(Tensor x, std::span<const float> weight, float eps, Tensor out) override {
    timed("rms_norm", 0, [&] { inner_.rms_norm(x, weight, eps, out); });
  }
  void linear(const Linear& linear, Tensor x, Tensor y) override {
    timed(name_of(linear), bytes_of(linear), [&] { inner_.linear(linear, x, y); });
  }
  void linear_add(const Linear& linear, Tensor x, Tensor y) override {
    timed(name_of(linear), bytes_of(linear), [&] { inner_.linear_add(linear, x, y); });
  }
  void rope(const RopeTable& table, int64_t first_position, int64_t heads, Tensor x) override {
    timed("rope", 0, [&] { inner_.rope(table, first_position, heads, x); });
  }
  void attention(const AttentionShape& shape, Tensor q, Tensor k, Tensor v, const KvLayer& kv,
                 int64_t first_position, Tensor out) override {
    timed("attention", kv_bytes_ * static_cast<double>(first_position + q.rows),
          [&] { inner_.attention(shape, q, k, v, kv, first_position, out); });
  }
  void swiglu(Tensor gate, Tensor up, Tensor out) override {
    timed("swiglu", 0, [&] { inner_.swiglu(gate, up, out); });
  }

  /// Of one position in one layer.
  void set_kv_bytes(double bytes) { kv_bytes_ = bytes; }

 private:
  static std::string name_of(const Linear& linear) {
    const std::string name = linear.name.substr(0, linear.name.rfind(".weight"));
    return "linear " + name.substr(name.rfind('.') + 1);
  }
  static double bytes_of(const Linear& linear) {
    double bytes = 0;
    for (const Linear::Part& part : linear.parts)
      bytes += static_cast<double>(part.weight->packed_bytes());
    return bytes;
  }
  template <typename Call>
  void timed(const std::string& name, double bytes, const Call& call) {
    const double start = process_cpu_seconds();
    call();
    Cost& cost = costs_[name];
    cost.seconds += process_cpu_seconds() - start;
    cost.bytes += bytes;
  }

  Costs costs_;
  double kv_bytes_ = 0;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

struct Row {
  std::string name;
  double seconds = 0;  // median over the rounds, all layers together
  double bytes = 0;
};

/// One forward call a round, each from the same position.
std::vector<Row> measure(const Arguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  const auto model = find_architecture(checkpoint.config(), arguments.model)
                         .load(checkpoint, WeightMode::kAsStored);
  ThreadPool pool(arguments.threads);
  const auto cpu = make_cpu_backend(pool);
  TimedBackend backend(*cpu);
  const std::atomic<bool> never{false};
  Decoder decoder(*model, backend, {arguments.position + arguments.tokens, KvType::kF16});
  backend.set_kv_bytes(decoder.kv_bytes_per_position() /
                       static_cast<double>(model->config().num_hidden_layers));
  decoder.fill(arguments.position, never);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < arguments.tokens; ++i)
    tokens.push_back(static_cast<int32_t>(i * 7919 % model->config().vocab_size));
  std::map<std::string, std::vector<double>> seconds;
  std::map<std::string, double> bytes;
  for (int round = -1; round < arguments.rounds; ++round) {
    decoder.rewind(arguments.position);
    const double start = process_cpu_seconds();
    decoder.forward(tokens, LogitRows::kLast, never, [](int64_t, Matrix) {});
    const double whole = process_cpu_seconds() - start;
    const Costs costs = backend.take();
    if (round < 0) continue;  // pages and threads
    double rest = whole;
    for (const auto& [name, cost] : costs) {
      seconds[name].push_back(cost.seconds / arguments.threads);
      bytes[name] = cost.bytes;
      rest -= cost.seconds;
    }
    seconds["between"].push_back(rest / arguments.threads);
    seconds["whole"].push_back(whole / arguments.threads);
  }
  std::vector<Row> rows;
  for (const auto& [name, all] : seconds) rows.push_back({name, median(all), bytes[name]});
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  for (Row& row : rows)
    if (row.name == "whole")
      for (const auto& [name, read] : bytes) row.bytes += name == "whole" ? 0 : read;
  return rows;
}

void print(const std::vector<Row>& rows, double bandwidth, const Arguments& arguments) {
  const double whole = rows.front().seconds;
  const std::string model = std::filesystem::path(arguments.model).filename().string();
  const char* separator = "[";
  if (!arguments.json)
    std::printf(
        "%lld tokens at %lld, %d threads, %d rounds, memory reads %.1f GB/s\n%-22s %10s "
        "%7s %10s %8s %8s\n",
        static_cast<long long>(arguments.tokens), static_cast<long long>(arguments.position),
        arguments.threads, arguments.rounds, bandwidth * 1e-9, "", "us", "share", "MB", "GB/s",
        "of read");
  for (const Row& row : rows) {
    const double rate = row.bytes / row.seconds;
    if (arguments.json) {
      std::printf(
          "%s{\"bench\":\"token\",\"model\":\"%s\",\"operation\":\"%s\",\"threads\":%d,"
          "\"tokens\":%lld,"
          "\"position\":%lld,\"seconds\":%.6g,\"share\":%.4f,\"bytes\":%.0f,"
          "\"bandwidth_gb_s\":%.3f,\"bandwidth_fraction\":%.4f}",
          separator, model.c_str(), row.name.c_str(), arguments.threads,
          static_cast<long long>(arguments.tokens), static_cast<long long>(arguments.position),
          row.seconds, row.seconds / whole, row.bytes, bandwidth * 1e-9, rate / bandwidth);
      separator = ",\n ";
    } else {
      std::printf("%-22s %10.1f %6.1f%%", row.name.c_str(), 1e6 * row.seconds,
                  100 * row.seconds / whole);
      if (row.bytes > 0)
        std::printf(" %10.2f %8.2f %7.0f%%", row.bytes * 1e-6, rate * 1e-9, 100 * rate / bandwidth);
      std::printf("\n");
    }
  }
  if (arguments.json) std::printf("]\n");
}

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") {
      arguments.json = true;
    } else if (!argument.starts_with("--")) {
      arguments.model = argument;
    } else if (i + 1 == argc) {
      return false;
    } else if (argument == "--threads") {
      arguments.threads = std::max(1, std::atoi(argv[++i]));
    } else if (argument == "--tokens") {
      arguments.tokens = std::max(1, std::atoi(argv[++i]));
    } else if (argument == "--position") {
      arguments.position = std::max(0, std::atoi(argv[++i]));
    } else if (argument == "--rounds") {
      arguments.rounds = std::max(1, std::atoi(argv[++i]));
    } else {
      return false;
    }
  }
  return !arguments.model.empty();
}

int run(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: token_bench <model> [--threads n] [--tokens n] [--position n] "
                 "[--rounds n] [--json]\n");
    return 2;
  }
  JobControl control;
  const std::vector<Row> rows = measure(arguments);
  print(rows, measure_read_bandwidth(arguments.threads, control), arguments);
  return 0;
}

}  // namespace
}  // namespace subbit

int main(int argc, char** argv) {
  try {
    return subbit::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
