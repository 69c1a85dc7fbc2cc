// Rows are shared out among threads; every sum runs in one order.
#include "compress/tune/tuned_end.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/wide_loop.h"
#include "linalg/row_reduction.h"

namespace subbit {
namespace {

constexpr int64_t kRowsPerTask = 16;
/// Of a step between codes: how near to a cell's edge a level may begin, and how far beyond the
/// last code it may go, whence it still comes back within a few steps.
constexpr float kWithinCell = 0.49f;
constexpr float kBeyondLast = 0.4f;

}  // namespace

TunedEnd::TunedEnd(const EndStart& start, ThreadPool& pool)
    : coding_(*start.coding),
      shape_(start.original->shape()),
      pool_(pool),
      start_(start.bytes.begin(), start.bytes.end()),
      level_(shape_.count()),
      mean_(shape_.count(), 0.0f),
      square_(shape_.count(), 0.0f),
      slot_(static_cast<size_t>(shape_.rows), -1) {
  GroupCodes stored = read_groups(coding_, shape_, start_);
  group_ = stored.group;
  groups_ = stored.groups;
  scales_ = std::move(stored.scales);
  const float reach = kWithinCell * static_cast<float>(coding_.code_step);
  pool.parallel_for(shape_.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      float* const level = level_.data() + i * shape_.cols;
      start.original->unpack_rows(i, {level, 1, shape_.cols});
      for (int64_t j = 0; j < shape_.cols; ++j) {
        const float scale = scale_at(i, j);
        const float code = stored.codes[static_cast<size_t>(i * groups_ * group_ + j)];
        level[j] = scale == 0.0f ? code : std::clamp(level[j] / scale, code - reach, code + reach);
      }
    }
  });
}

float TunedEnd::scale_at(int64_t row, int64_t col) const {
  return scales_[static_cast<size_t>(row * groups_ + col / group_)];
}

void TunedEnd::look_up(std::span<const int32_t> rows, Matrix out) const {
  CHECK(out.rows == std::ssize(rows) && out.cols == shape_.cols);
  wide_parallel_for(pool_, out.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t row = rows[static_cast<size_t>(i)];
      const float* const level = level_.data() + row * shape_.cols;
      float* const to = out.row(i);
      for (int64_t first = 0; first < shape_.cols; first += group_) {
        const float scale = scale_at(row, first);
        const int64_t end = std::min(first + group_, shape_.cols);
        for (int64_t j = first; j < end; ++j) to[j] = nearest_code(coding_, level[j]) * scale;
      }
    }
  });
}

int64_t TunedEnd::slot_of(int32_t row) {
  CHECK(row >= 0 && row < shape_.rows);
  int32_t& slot = slot_[static_cast<size_t>(row)];
  if (slot < 0) {
    slot = static_cast<int32_t>(touched_.size());
    touched_.push_back(row);
    gradient_.resize(touched_.size() * static_cast<size_t>(shape_.cols), 0.0f);
  }
  return slot;
}

void TunedEnd::add_gradient(std::span<const int32_t> rows, ConstMatrix gradient) {
  CHECK(gradient.rows == std::ssize(rows) && gradient.cols == shape_.cols);
  std::vector<int64_t> slots;
  for (const int32_t row : rows) slots.push_back(slot_of(row));
  // Columns are shared out, not rows: a row may come twice.
  pool_.parallel_for(shape_.cols, 32, [&](Range range) {
    for (size_t i = 0; i < slots.size(); ++i) {
      const float* const from = gradient.row(static_cast<int64_t>(i));
      float* const to = gradient_.data() + slots[i] * shape_.cols;
      for (int64_t j = range.begin; j < range.end; ++j) to[j] += from[j];
    }
  });
}

double TunedEnd::gradient_squares() const {
  double sum = 0.0;
  for (int64_t t = 0; t < std::ssize(touched_); ++t) {
    const float* const gradient = gradient_.data() + t * shape_.cols;
    for (int64_t first = 0; first < shape_.cols; first += group_) {
      const double scale = scale_at(touched_[static_cast<size_t>(t)], first);
      sum += scale * scale *
             dot_of(gradient + first, gradient + first, std::min(group_, shape_.cols - first));
    }
  }
  return sum;
}

void TunedEnd::step(const AdamStep& adam) {
  const float beyond = kBeyondLast * static_cast<float>(coding_.code_step);
  const float least = static_cast<float>(coding_.code_min) - beyond;
  const float most = static_cast<float>(coding_.code_max) + beyond;
  wide_parallel_for(pool_, std::ssize(touched_), kRowsPerTask, [&](Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) {
      const int64_t row = touched_[static_cast<size_t>(t)];
      const float* const gradient = gradient_.data() + t * shape_.cols;
      float* const level = level_.data() + row * shape_.cols;
      float* const mean = mean_.data() + row * shape_.cols;
      float* const square = square_.data() + row * shape_.cols;
      for (int64_t first = 0; first < shape_.cols; first += group_) {
        AdamStep own = adam;  // the gradient of a level is its weight's times the scale
        own.gradient_scale *= scale_at(row, first);
        const int64_t end = std::min(first + group_, shape_.cols);
        for (int64_t j = first; j < end; ++j) {
          const float moved = level[j] + adam_delta(gradient[j], mean[j], square[j], own);
          level[j] = std::clamp(moved, least, most);
        }
      }
    }
  });
  drop_gradient();
}

void TunedEnd::drop_gradient() {
  for (const int32_t row : touched_) slot_[static_cast<size_t>(row)] = -1;
  touched_.clear();
  gradient_.clear();
}

void TunedEnd::list_state(const std::string& name, StateArrays& state) {
  state.add(name + ".level", level_);
  state.add(name + ".mean", mean_);
  state.add(name + ".square", square_);
}

std::vector<std::byte> TunedEnd::bytes() const {
  std::vector<std::byte> bytes = start_;
  GroupCodes stored = read_groups(coding_, shape_, bytes);
  pool_.parallel_for(shape_.rows, kRowsPerTask, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      int8_t* const codes = stored.codes.data() + i * groups_ * group_;
      const float* const level = level_.data() + i * shape_.cols;
      for (int64_t j = 0; j < shape_.cols; ++j)
        codes[j] = static_cast<int8_t>(nearest_code(coding_, level[j]));
    }
  });
  replace_codes(coding_, shape_, stored.codes, bytes);
  return bytes;
}

}  // namespace subbit
