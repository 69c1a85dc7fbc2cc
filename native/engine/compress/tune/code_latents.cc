// Rows are shared out among threads; what is added up over rows runs in their order.
#include "compress/tune/code_latents.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "base/wide_loop.h"
#include "formats/term.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 8;
/// Entries that a piece may start on its way to.
constexpr int64_t kNeighbours = 8;
/// A latent far beyond all entries could not come back within a run.
constexpr float kSignBound = 1.0f;
constexpr float kTableBound = 4.0f;
/// How much farther than a sign's latent one of a table moves in a step: it has to pass from entry
/// to entry, not only through zero. stories260K at 1.3 bits, 300 steps: 1, 3, 8 and 20 times the
/// rate of 0.003 leave divergences of 1.99, 1.77, 1.56 and 1.37.
constexpr float kTableRate = 30.0f;
constexpr int kStartTries = 8;

/// For each of `count` entries those nearest to it, [count, kNeighbours or fewer].
std::vector<std::vector<int64_t>> neighbours_of(std::span<const float> entries, int64_t width) {
  const int64_t count = std::ssize(entries) / width;
  std::vector<std::vector<int64_t>> result;
  for (int64_t e = 0; e < count; ++e) {
    std::vector<std::pair<float, int64_t>> others;
    for (int64_t o = 0; o < count; ++o) {
      float distance = 0.0f;
      for (int64_t k = 0; k < width; ++k) {
        const float d = entries[static_cast<size_t>(e * width + k)] -
                        entries[static_cast<size_t>(o * width + k)];
        distance += d * d;
      }
      if (distance > 0.0f) others.emplace_back(distance, o);
    }
    std::sort(others.begin(), others.end());
    others.resize(std::min<size_t>(others.size(), kNeighbours));
    std::vector<int64_t>& nearest = result.emplace_back();
    for (const auto& [distance, other] : others) nearest.push_back(other);
  }
  return result;
}

}  // namespace

CodeLatents::CodeLatents(CodedTerm term, int64_t rows, std::span<const Table> tables, float start)
    : term_(std::move(term)),
      rows_(rows),
      latent_(rows * term_.columns),
      mean_(rows * term_.columns, 0.0f),
      square_(rows * term_.columns, 0.0f) {
  if (term_.coding == Coding::kTable) unit_ = table_gain(tables[static_cast<size_t>(term_.table)]);
  CHECK(std::ssize(term_.codes) == rows * layout_of(term_, tables).pieces);
  start_latents(tables, start);
}

Codebook CodeLatents::codebook(std::span<const Table> tables) const {
  std::vector<float> entries = entries_of(term_, tables);
  for (float& entry : entries) entry *= unit_;
  return Codebook(entries, layout_of(term_, tables).width);
}

/// Tables: on the line to a neighbour, as far as the code still is the nearest. Signs and code
/// words, whose entries lie around zero: between their entry and zero.
void CodeLatents::start_latents(std::span<const Table> tables, float start) {
  const CodeLayout layout = layout_of(term_, tables);
  const Codebook codebook = this->codebook(tables);
  std::vector<std::vector<int64_t>> neighbours;
  if (term_.coding == Coding::kTable) {
    std::vector<float> entries = entries_of(term_, tables);
    for (float& entry : entries) entry *= unit_;
    neighbours = neighbours_of(entries, layout.width);
  }
  Rng rng(static_cast<uint64_t>(rows_ * term_.columns));
  for (int64_t i = 0; i < rows_; ++i) {
    for (int64_t p = 0; p < layout.pieces; ++p) {
      const uint8_t code = term_.codes[static_cast<size_t>(i * layout.pieces + p)];
      const float* own = codebook.entry(code);
      float* latent = latent_.data() + i * term_.columns + layout.first_of(p);
      const int64_t width = layout.width_of(p, term_.columns);
      if (neighbours.empty()) {
        for (int64_t k = 0; k < width; ++k)
          latent[k * layout.stride] = static_cast<float>(own[k] * start * rng.uniform());
        continue;
      }
      const std::vector<int64_t>& near = neighbours[code];
      std::array<float, Codebook::kMostWidth> v{};
      std::copy_n(own, layout.width, v.begin());
      const double short_of = start * rng.uniform();
      const double pick = rng.uniform();
      if (!near.empty()) {
        const int64_t other = near[static_cast<size_t>(pick * static_cast<double>(near.size()))];
        const float* to = codebook.entry(static_cast<uint8_t>(other));
        double share = 0.5 * (1.0 - short_of);
        for (int tried = 0; tried < kStartTries; ++tried, share *= 0.75) {
          for (int64_t k = 0; k < layout.width; ++k)
            v[static_cast<size_t>(k)] = static_cast<float>(own[k] + share * (to[k] - own[k]));
          if (codebook.nearest(v.data()) == code) break;
          std::copy_n(own, layout.width, v.begin());
        }
      }
      for (int64_t k = 0; k < width; ++k) latent[k * layout.stride] = v[static_cast<size_t>(k)];
    }
  }
}

void CodeLatents::add_to(float gain, std::span<const Table> tables, Matrix q,
                         ThreadPool& pool) const {
  const CodeLayout layout = layout_of(term_, tables);
  const std::vector<float> entries = entries_of(term_, tables);
  pool.parallel_for(rows_, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t p = 0; p < layout.pieces; ++p) {
        const int64_t code = term_.codes[static_cast<size_t>(i * layout.pieces + p)];
        const float* entry = entries.data() + code * layout.width;
        float* to = q.row(i) + term_.first_column + layout.first_of(p);
        const int64_t width = layout.width_of(p, term_.columns);
        for (int64_t k = 0; k < width; ++k) to[k * layout.stride] += gain * entry[k];
      }
    }
  });
}

double CodeLatents::gather(ConstMatrix gradient, std::span<const float> row_scales, float gain,
                           std::span<const Table> tables, std::span<float> table_gradient,
                           ThreadPool& pool) const {
  const CodeLayout layout = layout_of(term_, tables);
  const std::vector<float> entries = entries_of(term_, tables);
  // One sum for each run of rows, whichever thread does it.
  const int64_t runs = (rows_ + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<double> gains(static_cast<size_t>(runs), 0.0);
  std::vector<float> sums(table_gradient.empty() ? 0 : entries.size() * static_cast<size_t>(runs));
  pool.parallel_for(runs, 1, [&](Range range) {
    for (int64_t run = range.begin; run < range.end; ++run) {
      float* own_sums = sums.empty() ? nullptr : sums.data() + run * std::ssize(entries);
      for (int64_t i = run * kRowsPerTask; i < std::min(rows_, (run + 1) * kRowsPerTask); ++i) {
        const float scale = row_scales[static_cast<size_t>(i)];
        double sum = 0.0;
        for (int64_t p = 0; p < layout.pieces; ++p) {
          const int64_t code = term_.codes[static_cast<size_t>(i * layout.pieces + p)];
          const float* entry = entries.data() + code * layout.width;
          const float* g = gradient.row(i) + term_.first_column + layout.first_of(p);
          const int64_t width = layout.width_of(p, term_.columns);
          float piece = 0.0f;
          for (int64_t k = 0; k < width; ++k) piece += g[k * layout.stride] * entry[k];
          sum += piece;
          if (own_sums == nullptr) continue;
          float* to = own_sums + code * layout.width;
          for (int64_t k = 0; k < width; ++k) to[k] += gain * scale * g[k * layout.stride];
        }
        gains[static_cast<size_t>(run)] += scale * sum;
      }
    }
  });
  double total = 0.0;
  for (const double sum : gains) total += sum;
  if (sums.empty()) return total;
  for (int64_t run = 0; run < runs; ++run)
    for (size_t e = 0; e < entries.size(); ++e)
      table_gradient[e] += sums[static_cast<size_t>(run) * entries.size() + e];
  return total;
}

void CodeLatents::step(ConstMatrix gradient, std::span<const float> row_scales,
                       const AdamStep& adam, std::span<const Table> tables, ThreadPool& pool) {
  const bool table = term_.coding == Coding::kTable;
  const float bound = table ? kTableBound : kSignBound;
  wide_parallel_for(pool, rows_, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      AdamStep own = adam;
      if (table) own.rate *= kTableRate;
      own.gradient_scale *= row_scales[static_cast<size_t>(i)];
      float* latent = latent_.data() + i * term_.columns;
      float* mean = mean_.data() + i * term_.columns;
      float* square = square_.data() + i * term_.columns;
      const float* g = gradient.row(i) + term_.first_column;
      for (int64_t j = 0; j < term_.columns; ++j) {
        const float moved = latent[j] + adam_delta(g[j], mean[j], square[j], own);
        latent[j] = std::clamp(moved, -bound, bound);
      }
    }
  });
  find_codes(tables, pool);
}

void CodeLatents::find_codes(std::span<const Table> tables, ThreadPool& pool) {
  const CodeLayout layout = layout_of(term_, tables);
  const Codebook codebook = this->codebook(tables);
  // The last piece of a row may be short: of its entries only the first columns count.
  const int64_t last_width = layout.width_of(layout.pieces - 1, term_.columns);
  Codebook last = codebook;
  if (last_width < layout.width) {
    std::vector<float> entries;
    for (int64_t e = 0; e < kTableEntries; ++e)
      for (int64_t k = 0; k < last_width; ++k)
        entries.push_back(codebook.entry(static_cast<uint8_t>(e))[k]);
    last.assign(entries, last_width);
  }
  wide_parallel_for(pool, rows_, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const float* latent = latent_.data() + i * term_.columns;
      uint8_t* codes = term_.codes.data() + i * layout.pieces;
      if (term_.coding == Coding::kSign) {
        for (int64_t p = 0; p < layout.pieces; ++p) codes[p] = latent[p] >= 0.0f;
        continue;
      }
      for (int64_t p = 0; p < layout.pieces; ++p) {
        float v[Codebook::kMostWidth];
        const float* from = latent + layout.first_of(p);
        const int64_t width = layout.width_of(p, term_.columns);
        for (int64_t k = 0; k < width; ++k) v[k] = from[k * layout.stride];
        codes[p] = (width < layout.width ? last : codebook).nearest(v);
      }
    }
  });
}

void CodeLatents::list_state(const std::string& name, StateArrays& state) {
  state.add(name + ".latent", latent_);
  state.add(name + ".mean", mean_);
  state.add(name + ".square", square_);
  state.add(name + ".codes", term_.codes);
}

}  // namespace subbit
