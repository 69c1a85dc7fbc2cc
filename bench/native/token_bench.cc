// Where the time of a token goes: a model's forward pass, each operation timed apart and held
// against what it reads and what memory could give. Says what binds: an operation near the
// bandwidth waits for memory; one far below it is instructions; what is between the operations is
// overhead.
//
// Usage: token_bench <model> [--threads 1] [--tokens 1] [--position 0] [--kv f16|int8]
//        [--rounds 20] [--wall] [--warm] [--by-distance] [--json]
// --threads   one number, or several (1,2), which then take turns in every round
// --tokens    of one forward call: 1 is decoding, more is prefill
// --position  of the first of them; what lies before is made up
// --wall      seconds by the wall: for what threads gain, on a machine that does nothing else
// --warm      a round is a few calls one behind another, and the last is timed: a generation, whose
//             threads are awake and whose caches hold what they can. Otherwise measuring the
//             bandwidth comes before every call, and empties them
// --by-distance  a virtual machine's processors may be moved about under it: at times they share a
//             last-level cache and its way to memory, at times they do not. How long a cache line
//             takes between two of them is measured around every round; rounds near and far are
//             told apart, and those in which that changed are left out
//
// Without it seconds are processor time over the number of threads: what the wall would say as long
// as all threads are busy.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
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

enum class Clock { kProcessor, kWall };

struct Arguments {
  std::string model;
  std::vector<int> threads = {1};
  int64_t tokens = 1;
  int64_t position = 0;
  int rounds = 20;
  KvType kv = KvType::kF16;
  Clock clock = Clock::kProcessor;
  int calls = 1;  // of one round, the last of them timed
  bool by_distance = false;
  bool json = false;
};

/// Whether two threads' processors share a last-level cache, judged by the way between them.
enum class Distance { kAny, kNear, kFar };

const char* name_of(Distance distance) {
  return distance == Distance::kNear ? "near" : distance == Distance::kFar ? "far" : "any";
}

/// Seconds that a cache line takes from one of the pool's two threads to the other: both answer
/// each other's stores.
double seconds_between(ThreadPool& two) {
  constexpr int kAnswers = 2000;
  struct alignas(2 * kCacheLine) Line {
    std::atomic<int> number{0};
  };
  Line lines[2];
  const auto answer = [&](std::atomic<int>& mine, const std::atomic<int>& other, int ahead) {
    for (int i = 1; i <= kAnswers; ++i) {
      while (other.load(std::memory_order_acquire) < i - ahead) continue;
      mine.store(i, std::memory_order_release);
    }
  };
  const auto start = std::chrono::steady_clock::now();
  two.parallel_for(2, 1, [&](Range range) {
    const bool first = range.begin == 0;
    answer(lines[first ? 0 : 1].number, lines[first ? 1 : 0].number, first ? 1 : 0);
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return took.count() / (2 * kAnswers);
}

Distance distance_of(ThreadPool& two) {
  constexpr double kFarSeconds = 120e-9;  // 30 to 70 ns within a cache, 200 to 400 beyond
  return seconds_between(two) < kFarSeconds ? Distance::kNear : Distance::kFar;
}

double now(Clock clock) {
  if (clock == Clock::kProcessor) return process_cpu_seconds();
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since).count();
}

/// What one operation took in one forward call, and what it read.
struct Cost {
  double seconds = 0;
  double bytes = 0;
};
using Costs = std::map<std::string, Cost>;

/// Counts every operation into the call's costs.
class TimedBackend final : public ForwardingBackend {
 public:
  TimedBackend(Backend& inner, Clock clock) : ForwardingBackend(inner), clock_(clock) {}

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
  void argmax(Tensor logits, int32_t& index) override {
    timed("argmax", 0, [&] { inner_.argmax(logits, index); });
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
    const double start = now(clock_);
    call();
    Cost& cost = costs_[name];
    cost.seconds += now(clock_) - start;
    cost.bytes += bytes;
  }

  Clock clock_;
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

/// A model's forward pass on so many threads, and what the rounds have shown so far.
class Runner {
 public:
  Runner(Model& model, int threads, const Arguments& arguments)
      : arguments_(arguments),
        pool_(threads),
        cpu_(make_cpu_backend(pool_)),
        backend_(*cpu_, arguments.clock),
        decoder_(model, backend_, {arguments.position + arguments.tokens, arguments.kv}) {
    backend_.set_kv_bytes(decoder_.kv_bytes_per_position() /
                          static_cast<double>(model.config().num_hidden_layers));
    decoder_.fill(arguments.position, never_);
    for (int64_t i = 0; i < arguments.tokens; ++i)
      tokens_.push_back(static_cast<int32_t>(i * 7919 % model.config().vocab_size));
    forward();  // pages and threads
  }

  int threads() const { return pool_.threads(); }
  int rounds(Distance distance) const {
    const auto found = seen_.find(distance);
    return found == seen_.end() ? 0 : static_cast<int>(found->second.bandwidths.size());
  }
  double bandwidth(Distance distance) const { return median(seen_.at(distance).bandwidths); }

  /// One forward call, from the same position as every other; and what memory gives just now.
  void round() {
    for (int call = 1; call < arguments_.calls; ++call) forward();
    last_costs_ = forward();
    JobControl control;
    last_bandwidth_ = measure_read_bandwidth(threads(), control);
  }

  void keep_round(Distance distance) {
    Seen& seen = seen_[distance];
    for (const auto& [name, cost] : last_costs_) seen.seconds[name].push_back(cost.seconds);
    seen.bandwidths.push_back(last_bandwidth_);
  }

  /// The longest first: that is the whole.
  std::vector<Row> rows(Distance distance) const {
    std::vector<Row> rows;
    double all_bytes = 0;
    for (const auto& [name, bytes] : bytes_) all_bytes += bytes;
    for (const auto& [name, all] : seen_.at(distance).seconds)
      rows.push_back({name, median(all), name == kWhole ? all_bytes : bytes_.at(name)});
    std::sort(rows.begin(), rows.end(),
              [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
    return rows;
  }

 private:
  static constexpr const char* kWhole = "whole";

  Costs forward() {
    decoder_.rewind(arguments_.position);
    const double start = now(arguments_.clock);
    decoder_.forward(tokens_, LogitRows::kLast, never_, [](int64_t, Matrix) {});
    const double whole = now(arguments_.clock) - start;
    Costs costs = backend_.take();
    double rest = whole;
    for (const auto& [name, cost] : costs) {
      rest -= cost.seconds;
      bytes_[name] = cost.bytes;
    }
    bytes_["between"] = 0;
    costs["between"].seconds = rest;
    costs[kWhole].seconds = whole;
    if (arguments_.clock == Clock::kProcessor)
      for (auto& entry : costs) entry.second.seconds /= threads();
    return costs;
  }

  const Arguments& arguments_;
  ThreadPool pool_;
  std::unique_ptr<Backend> cpu_;
  TimedBackend backend_;
  Decoder decoder_;
  const std::atomic<bool> never_{false};
  std::vector<int32_t> tokens_;
  /// What the rounds that count have shown.
  struct Seen {
    std::map<std::string, std::vector<double>> seconds;
    std::vector<double> bandwidths;
  };
  std::map<Distance, Seen> seen_;
  std::map<std::string, double> bytes_;
  Costs last_costs_;
  double last_bandwidth_ = 0;
};

void print_json(const Runner& runner, Distance distance, const Arguments& arguments,
                const char*& separator) {
  const std::string model = std::filesystem::path(arguments.model).filename().string();
  const std::vector<Row> rows = runner.rows(distance);
  for (const Row& row : rows) {
    std::printf(
        "%s{\"bench\":\"token\",\"model\":\"%s\",\"operation\":\"%s\",\"threads\":%d,"
        "\"cores\":\"%s\",\"tokens\":%lld,"
        "\"position\":%lld,\"seconds\":%.6g,\"share\":%.4f,\"bytes\":%.0f,"
        "\"bandwidth_gb_s\":%.3f,\"bandwidth_fraction\":%.4f}",
        separator, model.c_str(), row.name.c_str(), runner.threads(), name_of(distance),
        static_cast<long long>(arguments.tokens), static_cast<long long>(arguments.position),
        row.seconds, row.seconds / rows.front().seconds, row.bytes,
        runner.bandwidth(distance) * 1e-9, row.bytes / row.seconds / runner.bandwidth(distance));
    separator = ",\n ";
  }
}

/// `first`: the rows of the first thread count, which others are compared with.
void print_table(const Runner& runner, Distance distance, const std::vector<Row>& first,
                 const Arguments& arguments) {
  std::printf(
      "%lld tokens at %lld, %d threads, %d rounds, %s, cores %s, memory reads %.1f GB/s\n%-22s "
      "%10s "
      "%7s %10s %8s %8s %8s\n",
      static_cast<long long>(arguments.tokens), static_cast<long long>(arguments.position),
      runner.threads(), runner.rounds(distance),
      arguments.clock == Clock::kWall ? "by the wall" : "processor time / threads",
      name_of(distance), runner.bandwidth(distance) * 1e-9, "", "us", "share", "MB", "GB/s",
      "of read", "faster");
  const std::vector<Row> rows = runner.rows(distance);
  for (const Row& row : rows) {
    std::printf("%-22s %10.1f %6.1f%%", row.name.c_str(), 1e6 * row.seconds,
                100 * row.seconds / rows.front().seconds);
    const double rate = row.bytes / row.seconds;
    if (row.bytes > 0)
      std::printf(" %10.2f %8.2f %7.0f%%", row.bytes * 1e-6, rate * 1e-9,
                  100 * rate / runner.bandwidth(distance));
    else
      std::printf(" %28s", "");
    for (const Row& other : first)
      if (other.name == row.name) std::printf(" %6.2f x", other.seconds / row.seconds);
    std::printf("\n");
  }
}

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") {
      arguments.json = true;
    } else if (argument == "--wall") {
      arguments.clock = Clock::kWall;
    } else if (argument == "--warm") {
      arguments.calls = 8;
    } else if (argument == "--by-distance") {
      arguments.by_distance = true;
    } else if (!argument.starts_with("--")) {
      arguments.model = argument;
    } else if (i + 1 == argc) {
      return false;
    } else if (argument == "--threads") {
      arguments.threads.clear();
      std::stringstream list(argv[++i]);
      for (std::string one; std::getline(list, one, ',');)
        arguments.threads.push_back(std::max(1, std::atoi(one.c_str())));
    } else if (argument == "--tokens") {
      arguments.tokens = std::max(1, std::atoi(argv[++i]));
    } else if (argument == "--position") {
      arguments.position = std::max(0, std::atoi(argv[++i]));
    } else if (argument == "--kv") {
      arguments.kv = std::string_view(argv[++i]) == "int8" ? KvType::kI8 : KvType::kF16;
    } else if (argument == "--rounds") {
      arguments.rounds = std::max(1, std::atoi(argv[++i]));
    } else {
      return false;
    }
  }
  return !arguments.model.empty() && !arguments.threads.empty();
}

int run(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: token_bench <model> [--threads n,n] [--tokens n] [--position n] "
                 "[--kv f16|int8] [--rounds n] [--wall] [--warm] [--by-distance] [--json]\n");
    return 2;
  }
  const Checkpoint checkpoint = Checkpoint::open(arguments.model);
  const auto model = find_architecture(checkpoint.config(), arguments.model)
                         .load(checkpoint, WeightMode::kAsStored);
  std::vector<std::unique_ptr<Runner>> runners;
  for (const int threads : arguments.threads)
    runners.push_back(std::make_unique<Runner>(*model, threads, arguments));
  ThreadPool two(2);
  for (int round = 0; round < arguments.rounds; ++round) {
    const Distance before = arguments.by_distance ? distance_of(two) : Distance::kAny;
    for (const auto& runner : runners) runner->round();
    const Distance after = arguments.by_distance ? distance_of(two) : Distance::kAny;
    if (after != before) continue;
    for (const auto& runner : runners) runner->keep_round(before);
  }
  const char* separator = "[";
  for (const Distance distance : {Distance::kAny, Distance::kNear, Distance::kFar}) {
    for (const auto& runner : runners) {
      if (runner->rounds(distance) == 0) continue;
      if (arguments.json) {
        print_json(*runner, distance, arguments, separator);
      } else {
        print_table(*runner, distance, runners.front()->rows(distance), arguments);
      }
    }
  }
  if (arguments.json) std::printf("]\n");
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
