// An embedding or a head of few bits while the model is tuned. Its scales stay; each weight is a
// level, in steps of its group's scale, that stands for its nearest code, and moves by
// straight-through estimation (Bengio et al. 2013). A body of under a bit a weight has lost much of
// what its neighbours at both ends were trained to meet, and the ends can learn to meet the body
// that there now is, for not one byte more.
//
// Only rows that a step touched move, and only their moments decay: of a large vocabulary a step
// sees little.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/tape/embedding_map.h"
#include "base/buffer.h"
#include "base/thread_pool.h"
#include "compress/tune/adam.h"
#include "compress/tune/saved_state.h"
#include "formats/format.h"
#include "formats/groups/groups.h"

namespace subbit {

/// Where a matrix begins, and what it is: a model's embedding, its head, or both in one.
struct EndStart {
  const GroupCoding* coding = nullptr;
  std::span<const std::byte> bytes;  // `original` rounded
  const Weight* original = nullptr;
  bool embeds = false;
  bool heads = false;
};

/// Memory: 12 bytes a weight, and what it reads as written; 4 bytes a weight of the rows that a
/// step touches.
class TunedEnd final : public EmbeddingMap {
 public:
  /// Begins with the codes that there are; a weight that was near the edge of its code's cell is
  /// the first to leave it.
  TunedEnd(const EndStart& start, ThreadPool& pool);

  void look_up(std::span<const int32_t> rows, Matrix out) const override;
  void add_gradient(std::span<const int32_t> rows, ConstMatrix gradient) override;

  double gradient_squares() const;
  /// `adam.rate` is in levels.
  void step(const AdamStep& adam);
  void drop_gradient();
  /// What the next step depends on.
  void list_state(const std::string& name, StateArrays& state);
  /// As it will be written.
  std::vector<std::byte> bytes() const;

 private:
  float scale_at(int64_t row, int64_t col) const;
  int64_t slot_of(int32_t row);

  const GroupCoding& coding_;
  Shape shape_;
  ThreadPool& pool_;
  std::vector<std::byte> start_;
  int64_t group_ = 0;
  int64_t groups_ = 0;
  std::vector<float> scales_;  // [rows, groups]
  Buffer<float> level_;        // [rows, cols], as are the next two
  Buffer<float> mean_;
  Buffer<float> square_;
  std::vector<int32_t> touched_;  // rows, in the order in which they were met
  std::vector<int32_t> slot_;     // [rows], -1 where not touched
  std::vector<float> gradient_;   // [touched, cols], d loss / d weight
};

}  // namespace subbit
