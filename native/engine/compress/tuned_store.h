// What tuning the whole model made, between its end and the written file: all of it or nothing, so
// that a compression interrupted there either finds the tuned model or tunes again. Blocks lie
// under their numbers, the tables they share behind them, and embedding and head behind those.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "compress/block_store.h"
#include "compress/finished_tensor.h"
#include "compress/fit/fitted_block.h"
#include "compress/plan.h"
#include "io/checkpoint.h"

namespace subbit {

/// The tables that linears share as they are written.
std::vector<FinishedTensor> table_files(const std::vector<Table>& tables);

class TunedStore {
 public:
  /// `moving`: which of the plan's ends tuning moves. All that is named must outlive this.
  TunedStore(BlockStore& store, const CompressionPlan& plan, const Checkpoint& checkpoint,
             std::vector<size_t> moving);

  const std::vector<size_t>& moving() const { return moving_; }

  struct Found {
    std::vector<StoredBlock> blocks;
    std::vector<Table> tables;
    std::vector<FinishedTensor> ends;  // those that moved
  };
  /// Nothing where a part is missing or does not read back.
  std::optional<Found> load() const;
  /// Throws kFileError.
  void save(FittedModel tuned);

 private:
  bool load_tables(std::vector<Table>& tables) const;
  bool load_ends(std::vector<FinishedTensor>& ends) const;
  int64_t tables_index() const { return std::ssize(plan_.blocks); }
  int64_t ends_index() const { return std::ssize(plan_.blocks) + 1; }

  BlockStore& store_;
  const CompressionPlan& plan_;
  const Checkpoint& checkpoint_;
  std::vector<size_t> moving_;
};

}  // namespace subbit
