// Golden logits: a checkpoint's answers as an independent implementation gave them.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "decoding/decoder.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "models/model.h"

namespace subbit::test {

struct Golden {
  std::vector<int32_t> tokens;
  std::vector<int32_t> ids;   // vocabulary entries that `logits` holds; empty: all
  std::vector<float> logits;  // [tokens, ids]
};

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const char* name) {
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr) return {};
  std::vector<T> values(tensor->bytes.size() / sizeof(T));
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

inline Golden read_golden(const std::string& path) {
  const SafetensorsFile file(path);
  return {values_of<int32_t>(file, "tokens"), values_of<int32_t>(file, "ids"),
          values_of<float>(file, "logits")};
}

/// Logits [tokens, vocab] after appending `tokens`.
inline std::vector<float> forward(Decoder& decoder, std::span<const int32_t> tokens) {
  std::vector<float> all;
  const std::atomic<bool> abort{false};
  decoder.forward(tokens, LogitRows::kAll, abort, [&](int64_t, Matrix logits) {
    for (int64_t i = 0; i < logits.rows; ++i) {
      all.insert(all.end(), logits.row(i), logits.row(i) + logits.cols);
    }
  });
  return all;
}

/// A model with everything it needs to run, threads included.
struct Runner {
  Checkpoint checkpoint;
  std::unique_ptr<Model> model;
  ThreadPool pool;
  std::unique_ptr<Backend> backend;
  Decoder decoder;

  explicit Runner(const std::string& path, KvType kv = KvType::kF32, int threads = 2,
                  WeightMode mode = WeightMode::kAsStored)
      : checkpoint(Checkpoint::open(path)),
        model(find_architecture(checkpoint.config(), path).load(checkpoint, mode)),
        pool(threads),
        backend(make_cpu_backend(pool)),
        decoder(*model, *backend, {model->config().max_position_embeddings, kv}) {}

  std::vector<float> forward(std::span<const int32_t> tokens) {
    return test::forward(decoder, tokens);
  }
};

}  // namespace subbit::test
