// The contract every weight format fulfils, and what a linear layer looks like to the rest of the
// engine. A format owns its bytes' layout, packing, slow reference (`unpack_rows`, which defines
// truth) and CPU kernels; it does not know models, files or back ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "formats/stored_weight.h"
#include "io/safetensors.h"

namespace subbit {

struct QuantizedRows;    // formats/signs/quantized_rows.h
struct MultiplyScratch;  // formats/signs/multiply_scratch.h

/// Rows of activations entering a linear layer. The true input of row t is row_scale[t] *
/// values[t]: a norm leaves its reciprocal root mean square here instead of multiplying it in, so
/// that the codes do not depend on how a back end summed the squares.
struct LinearInput {
  ConstMatrix values;                        // [tokens, cols]
  const float* row_scale = nullptr;          // [tokens], or null for all ones
  const QuantizedRows* quantized = nullptr;  // of `values`; set when the format asks for codes
  MultiplyScratch* scratch = nullptr;        // or null: the product allocates
};

enum class OutputMode {
  kOverwrite,
  kAdd
};  // kAdd: the residual stream, y = y + W x, rounded twice

/// Which arithmetic a format's kernels take in.
enum class InputKind { kFloat, kCodes };

/// The weights of one linear layer (or an embedding), in some format. Immutable; views bytes that
/// its owner keeps alive. Safe to use from several threads.
class Weight {
 public:
  virtual ~Weight() = default;

  Shape shape() const { return shape_; }  // [rows = outputs, cols = inputs]
  virtual std::string_view format() const = 0;
  /// For people: the format's name and what varies inside it, "packed: factored r=160".
  virtual std::string describe() const { return std::string(format()); }
  /// All bytes of the tensor: codes, scales, tables, padding.
  virtual uint64_t packed_bytes() const = 0;
  virtual InputKind input_kind() const = 0;
  /// The weights as floats, [count, cols] into `out`: slow, obvious, the definition of this format.
  virtual void unpack_rows(int64_t first_row, Matrix out) const = 0;
  /// The bias the packed bytes carry, [rows], or empty.
  virtual std::span<const float> bias() const { return {}; }
  /// Where its bytes lie, for back ends with kernels of their own.
  virtual StoredWeight stored() const { return {}; }
  /// y (+)= row_scale * W x + bias over all tokens. `out` is [tokens, rows]. CPU, multi-threaded;
  /// for kCodes formats exact up to the stated float epilogue and the same for any thread count.
  virtual void multiply(const LinearInput& in, Matrix out, OutputMode mode,
                        ThreadPool& pool) const = 0;

 protected:
  explicit Weight(Shape shape) : shape_(shape) {}

 private:
  Shape shape_;
};

/// Where a weight finds what it shares with others: the tensor of a table by its number, or null.
/// The tensor and its bytes must outlive the weight.
using SharedTables = std::function<const TensorView*(int number)>;

/// A matrix that does not have to exist yet, and the most rows of input it will be given. Its bytes
/// bound what varies inside a format, such as ranks.
struct PlannedMatrix {
  Shape shape;
  uint64_t bytes = 0;
  int64_t tokens = 0;
  int terms = kMostHeldTerms;  // the most that a packed linear may be the sum of

  /// Beyond two, sums of terms take each other's place.
  static constexpr int kMostHeldTerms = 2;
};

/// The same contract, seen before there are bytes.
class Format {
 public:
  virtual ~Format() = default;
  virtual std::string_view name() const = 0;
  virtual int layout_version() const = 0;
  /// Memory that multiplying by these, one after another, takes beside the output, with each piece
  /// of scratch kept at its largest: what a plan counts before there are bytes to look at.
  virtual uint64_t scratch_bytes(std::span<const PlannedMatrix> matrices) const = 0;
  /// Checks every field of `tensor` against the layout and against `shape` ([rows, cols] the model
  /// expects; rows of zero accept any), then views it. Throws kCorruptFile, kUnsupportedFormat.
  virtual std::unique_ptr<Weight> view(const TensorView& tensor, Shape shape,
                                       const SharedTables& tables) const = 0;
  /// For weights that share nothing.
  std::unique_ptr<Weight> view(const TensorView& tensor, Shape shape) const {
    return view(tensor, shape, SharedTables());
  }
};

/// 8 * bytes / weights: the only definition of bits per weight in the house.
inline double bits_per_weight(uint64_t bytes, int64_t weights) {
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
}

}  // namespace subbit
