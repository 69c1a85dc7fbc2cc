// Each part is a stored block like any other.
#include "compress/tuned_store.h"

#include <cstring>
#include <span>
#include <utility>

#include "base/check.h"

namespace subbit {

std::vector<FinishedTensor> table_files(const std::vector<Table>& tables) {
  std::vector<int64_t> widths;
  for (const Table& table : tables) widths.push_back(table.width);
  std::vector<FinishedTensor> files;
  for (const TensorSpec& spec : table_specs(widths)) {
    const auto bytes = std::as_bytes(std::span(tables[files.size()].entries));
    files.push_back({spec, {bytes.begin(), bytes.end()}});
  }
  return files;
}

TunedStore::TunedStore(BlockStore& store, const CompressionPlan& plan, const Checkpoint& checkpoint,
                       std::vector<size_t> moving)
    : store_(store), plan_(plan), checkpoint_(checkpoint), moving_(std::move(moving)) {}

std::optional<TunedStore::Found> TunedStore::load() const {
  Found found;
  for (const BlockPlan& block : plan_.blocks) {
    found.blocks.push_back(
        store_.load(std::ssize(found.blocks), tensors_of(block, checkpoint_), BlockStage::kTuned));
    if (found.blocks.back().file == nullptr) return std::nullopt;
  }
  if (!load_tables(found.tables) || !load_ends(found.ends)) return std::nullopt;
  return found;
}

bool TunedStore::load_tables(std::vector<Table>& tables) const {
  if (plan_.table_widths.empty()) return true;
  const StoredBlock stored =
      store_.load(tables_index(), table_specs(plan_.table_widths), BlockStage::kTuned);
  if (stored.file == nullptr) return false;
  for (size_t t = 0; t < plan_.table_widths.size(); ++t) {
    const std::span<const std::byte> bytes =
        stored.file->find(shared_table_name(static_cast<int>(t)))->bytes;
    Table& table = tables.emplace_back();
    table.width = plan_.table_widths[t];
    table.entries.resize(bytes.size());
    std::memcpy(table.entries.data(), bytes.data(), bytes.size());
  }
  return true;
}

bool TunedStore::load_ends(std::vector<FinishedTensor>& ends) const {
  if (moving_.empty()) return true;
  std::vector<TensorSpec> specs;
  for (const size_t i : moving_) specs.push_back(plan_.ends[i].spec);
  const StoredBlock stored = store_.load(ends_index(), specs, BlockStage::kTuned);
  if (stored.file == nullptr) return false;
  for (const TensorSpec& spec : specs) {
    const std::span<const std::byte> bytes = stored.file->find(spec.name)->bytes;
    ends.push_back({spec, {bytes.begin(), bytes.end()}});
  }
  return true;
}

void TunedStore::save(FittedModel tuned) {
  CHECK(tuned.blocks.size() == plan_.blocks.size() && tuned.ends.size() == moving_.size());
  for (size_t i = 0; i < plan_.blocks.size(); ++i) {
    store_.save(static_cast<int64_t>(i),
                pack_block(plan_.blocks[i], checkpoint_, std::move(tuned.blocks[i]), tuned.tables),
                BlockStage::kTuned);
  }
  if (!tuned.tables.empty())
    store_.save(tables_index(), {table_files(tuned.tables), {}}, BlockStage::kTuned);
  if (moving_.empty()) return;
  FinishedBlock ends;
  for (size_t m = 0; m < moving_.size(); ++m)
    ends.tensors.push_back({plan_.ends[moving_[m]].spec, std::move(tuned.ends[m])});
  store_.save(ends_index(), ends, BlockStage::kTuned);
}

}  // namespace subbit
