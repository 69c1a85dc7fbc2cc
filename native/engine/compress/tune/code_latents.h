// One term of a coded linear that can be tuned: every weight has a float, and each piece of them
// stands for the entry nearest to it; the gradient of the entry is taken for that of the floats
// (straight-through estimation, as for signs; for tables van den Oord et al. 2017).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/matrix.h"
#include "base/thread_pool.h"
#include "compress/fit/coded/codebook.h"
#include "compress/fit/coded/coded.h"
#include "compress/tune/adam.h"
#include "compress/tune/saved_state.h"

namespace subbit {

/// Memory: 12 bytes a weight (latent, two moments) and a byte a code.
class CodeLatents {
 public:
  /// Each piece starts between its entry and another near it, at most the share `start` of the way
  /// short of where the other becomes the nearer.
  CodeLatents(CodedTerm term, int64_t rows, std::span<const Table> tables, float start);

  /// The codes as they now are; the gain as it was.
  const CodedTerm& term() const { return term_; }

  /// Adds gain * entries to the rows of `q`, which has all the linear's columns.
  void add_to(float gain, std::span<const Table> tables, Matrix q, ThreadPool& pool) const;
  /// `gradient` is that of diag(row_scales) \ rows of q. Adds to d loss / d entries of the term's
  /// table, where it has one and `table_gradient` is not empty, and returns d loss / d gain.
  double gather(ConstMatrix gradient, std::span<const float> row_scales, float gain,
                std::span<const Table> tables, std::span<float> table_gradient,
                ThreadPool& pool) const;
  /// Moves the latents, then finds their codes among the entries there now are. `adam` has the rate
  /// of a sign's latent; a table's moves faster.
  void step(ConstMatrix gradient, std::span<const float> row_scales, const AdamStep& adam,
            std::span<const Table> tables, ThreadPool& pool);
  /// What the next step depends on.
  void list_state(const std::string& name, StateArrays& state);

 private:
  /// The entries in the latents' unit.
  Codebook codebook(std::span<const Table> tables) const;
  void start_latents(std::span<const Table> tables, float start);
  void find_codes(std::span<const Table> tables, ThreadPool& pool);

  CodedTerm term_;
  int64_t rows_;
  float unit_ = 1.0f;     // what the entries' integers are multiplied by to be of size one
  Buffer<float> latent_;  // [rows, columns of the term], in such units
  Buffer<float> mean_;
  Buffer<float> square_;
};

}  // namespace subbit
