// Proving the bytes of a packed linear. Every field is checked before it becomes a size; the
// tensor's length must equal the length its heads imply.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "formats/packed/layout.h"
#include "formats/packed/pack.h"
#include "formats/packed/packed.h"
#include "formats/registry.h"
#include "formats/signs/layout.h"
#include "io/json.h"

namespace subbit {
namespace {

/// Reads sections in order and names the tensor in every complaint.
class SectionReader {
 public:
  SectionReader(std::span<const std::byte> bytes, std::string_view where)
      : bytes_(bytes), where_(where) {}

  [[noreturn]] void corrupt(const std::string& what, const std::string& expected,
                            const std::string& actual) const {
    throw Error(ErrorCode::kCorruptFile, what + " in packed tensor " + where_,
                {{"tensor", where_}, {"expected", expected}, {"actual", actual}});
  }
  [[noreturn]] void unsupported(const std::string& what, const std::string& actual) const {
    throw Error(ErrorCode::kUnsupportedFormat, what + " in packed tensor " + where_,
                {{"tensor", where_}, {"actual", actual}});
  }

  /// The next `count` values of T, in place.
  template <typename T>
  std::span<const T> take(uint64_t count, const char* what) {
    const uint64_t bytes = count * sizeof(T);
    if (bytes > bytes_.size() - at_) {
      corrupt(std::string(what) + " is cut short", std::to_string(bytes) + " bytes",
              std::to_string(bytes_.size() - at_));
    }
    const std::span<const T> values(reinterpret_cast<const T*>(bytes_.data() + at_), count);
    at_ += bytes;
    return values;
  }

  /// Padding must be zero: the same weights are the same bytes.
  void align(uint64_t alignment) {
    const uint64_t end = align_up(at_, alignment);
    for (const std::byte b : take<std::byte>(end - at_, "padding")) {
      if (b != std::byte{0}) corrupt("nonzero padding", "0", std::to_string(int(b)));
    }
  }
  uint64_t at() const { return at_; }

 private:
  std::span<const std::byte> bytes_;
  std::string where_;
  uint64_t at_ = 0;
};

LinearHead read_head(SectionReader& reader) {
  const LinearHead head = reader.take<LinearHead>(1, "the head")[0];
  if (std::memcmp(head.magic, kPackedMagic, sizeof(head.magic)) != 0) {
    reader.unsupported("an unknown tag", quote_for_message({head.magic, sizeof(head.magic)}));
  }
  if (head.flags & ~(kOwnPreScale | kHasBias)) {
    reader.unsupported("an unknown flag", std::to_string(head.flags));
  }
  if (head.zero != 0) reader.unsupported("a reserved field is set", std::to_string(head.zero));
  if (head.terms < 1 || head.terms > kMaxTerms) {
    reader.corrupt("the number of terms", "1 to 8", std::to_string(head.terms));
  }
  // 2^22 columns keep every integer sum inside its bounds; 2^31 rows every index.
  if (head.rows < 1 || head.rows > (1u << 31) || head.cols < 1 || head.cols > (1u << 22)) {
    reader.corrupt("the shape", "1..2^31 rows, 1..2^22 columns",
                   std::to_string(head.rows) + " x " + std::to_string(head.cols));
  }
  return head;
}

/// The tensor of a shared table, proved to hold what a table term multiplies.
std::span<const int8_t> find_table(const SectionReader& reader, const SharedTables& tables,
                                   int number, int64_t width) {
  const TensorView* tensor = tables ? tables(number) : nullptr;
  const std::string name = "shared table " + std::to_string(number);
  if (tensor == nullptr) reader.corrupt(name + " is missing, but named", "a table", "none");
  if (tensor->dtype != DType::kI8 || tensor->shape != std::vector<int64_t>{kTableEntries, width} ||
      tensor->bytes.size() != shared_table_bytes(width)) {
    std::string actual(dtype_name(tensor->dtype));
    for (const int64_t extent : tensor->shape) actual += " " + std::to_string(extent);
    reader.corrupt(name + " (" + tensor->name + ") has another shape than the one named",
                   "I8 256 " + std::to_string(width), actual);
  }
  const std::span<const int8_t> entries(reinterpret_cast<const int8_t*>(tensor->bytes.data()),
                                        tensor->bytes.size());
  // -128 would leave the bounds of the integer sums, which count on |entry| <= 127.
  if (std::find(entries.begin(), entries.end(), int8_t{-128}) != entries.end()) {
    reader.corrupt(name + " (" + tensor->name + ") has an entry out of range and is named",
                   "-127..127", "-128");
  }
  return entries;
}

void read_parameter(const SectionReader& reader, const SharedTables& tables, uint16_t parameter,
                    PackedView::Term& term) {
  switch (term.kind->parameter()) {
    case TermParameter::kNone:
      if (parameter != 0) {
        reader.corrupt("a term without a rank names one", "rank 0", std::to_string(parameter));
      }
      return;
    case TermParameter::kRank:
      if (parameter == 0) reader.corrupt("a term's rank", "a multiple of 32", "0");
      term.view.shape.rank = int64_t{parameter} * kRankUnit;
      return;
    case TermParameter::kTable: {
      const int64_t width = parameter & 0xFF;
      if (width != 4 && width != 8 && width != 16) {
        reader.corrupt("a table term's columns an index", "4, 8 or 16", std::to_string(width));
      }
      term.view.shape.table_width = width;
      term.view.table_number = parameter >> 8;
      term.view.table = find_table(reader, tables, term.view.table_number, width);
      return;
    }
  }
}

PackedView::Term read_term_head(const SectionReader& reader, const SharedTables& tables,
                                const LinearHead& linear, const TermHead& head) {
  PackedView::Term term;
  term.kind = find_term_kind(head.kind);
  if (term.kind == nullptr) reader.unsupported("an unknown term kind", std::to_string(head.kind));
  const bool has_rank = term.kind->parameter() == TermParameter::kRank;
  if (head.flags & ~(has_rank ? kHasMidScale : 0)) {
    reader.unsupported("an unknown term flag", std::to_string(head.flags));
  }
  const uint64_t end = uint64_t{head.first_column} + head.columns;
  // A run that ended inside a chunk would let its padding bits meet another term's codes.
  const bool whole_chunks = end == linear.cols || end % kChunk == 0;
  if (head.columns < 1 || end > linear.cols || head.first_column % (2 * kChunk) != 0 ||
      !whole_chunks) {
    reader.corrupt("a term's columns",
                   "a run of whole 32-column chunks from a multiple of 64 below " +
                       std::to_string(linear.cols),
                   std::to_string(head.first_column) + ".." + std::to_string(end));
  }
  if (const int64_t unit = term.kind->column_unit(); head.columns % unit != 0) {
    reader.corrupt("the columns of a " + std::string(term.kind->name()) + " term",
                   "a multiple of " + std::to_string(unit), std::to_string(head.columns));
  }
  if (!std::isnormal(head.gain)) {
    reader.corrupt("a term's gain", "a normal number", std::to_string(head.gain));
  }
  term.view.shape.rows = linear.rows;
  term.view.shape.columns = head.columns;
  read_parameter(reader, tables, head.parameter, term);
  term.view.first_column = head.first_column;
  term.view.gain = head.gain;
  return term;
}

std::span<const Half> read_halves(SectionReader& reader, uint64_t count, const char* what) {
  const auto halves = reader.take<Half>(count, what);
  for (const Half half : halves) {
    const int exponent = (half.bits >> 10) & 0x1F;
    const bool zero = (half.bits & 0x7FFF) == 0;
    if (exponent == 0x1F || (exponent == 0 && !zero)) {
      reader.corrupt(std::string(what) + " holds a value", "zero or a normal half",
                     std::to_string(half.bits));
    }
  }
  return halves;
}

}  // namespace

PackedView parse_packed(std::span<const std::byte> bytes, std::string_view where,
                        const SharedTables& tables) {
  SectionReader reader(bytes, where);
  const LinearHead head = read_head(reader);
  const auto term_heads = reader.take<TermHead>(head.terms, "the term heads");
  PackedView view;
  view.shape = {head.rows, head.cols};
  uint64_t words = 0;
  for (const TermHead& term_head : term_heads) {
    view.terms.push_back(read_term_head(reader, tables, head, term_head));
    const auto& term = view.terms.back();
    words += term.kind->word_bytes(term.view.shape);
  }
  if (words > bytes.size()) {
    reader.corrupt("the words are cut short", std::to_string(words) + " bytes",
                   std::to_string(bytes.size()));
  }

  const uint64_t alignment = section_alignment(words);
  if (head.flags & kHasBias) view.bias = reader.take<float>(head.rows, "the bias");
  view.s_post = read_halves(reader, head.rows, "s_post");
  if (head.flags & kOwnPreScale) view.s_pre = read_halves(reader, head.cols, "s_pre");
  for (size_t i = 0; i < view.terms.size(); ++i) {
    if ((term_heads[i].flags & kHasMidScale) == 0) continue;
    const auto rank = static_cast<uint64_t>(view.terms[i].view.shape.rank);
    view.terms[i].view.s_mid = read_halves(reader, rank, "s_mid");
  }
  reader.align(alignment);
  for (auto& term : view.terms) {
    term.view.words = reader.take<std::byte>(term.kind->word_bytes(term.view.shape), "the words");
    term.kind->check(term.view, where);
  }
  reader.align(alignment);
  if (reader.at() != bytes.size()) {
    reader.corrupt("the length", std::to_string(reader.at()) + " bytes",
                   std::to_string(bytes.size()));
  }
  return view;
}

std::string describe_packed(const PackedView& view) {
  PackedSize size;
  size.shape = view.shape;
  for (const auto& [kind, term] : view.terms) {
    size.terms.push_back({kind->tag(), term.shape.rank, term.shape.columns, !term.s_mid.empty(),
                          term.first_column, term.shape.table_width});
  }
  return describe_packed(size);
}

}  // namespace subbit
