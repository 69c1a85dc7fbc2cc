// Proving the bytes of a packed linear. Every field is checked before it becomes a size; the
// tensor's length must equal the length its heads imply.
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

PackedView::Term read_term_head(SectionReader& reader, const LinearHead& linear,
                                const TermHead& head) {
  PackedView::Term term;
  term.kind = find_term_kind(head.kind);
  if (term.kind == nullptr) reader.unsupported("an unknown term kind", std::to_string(head.kind));
  if (head.flags & ~kHasMidScale) {
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
  if (!std::isnormal(head.gain)) {
    reader.corrupt("a term's gain", "a normal number", std::to_string(head.gain));
  }
  term.view.shape = {linear.rows, head.columns, int64_t{head.rank_units} * kRankUnit};
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

PackedView parse_packed(std::span<const std::byte> bytes, std::string_view where) {
  SectionReader reader(bytes, where);
  const LinearHead head = read_head(reader);
  const auto term_heads = reader.take<TermHead>(head.terms, "the term heads");
  PackedView view;
  view.shape = {head.rows, head.cols};
  uint64_t words = 0;
  for (const TermHead& term_head : term_heads) {
    view.terms.push_back(read_term_head(reader, head, term_head));
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
  for (const auto& term : view.terms) {
    const TermShape& shape = term.view.shape;
    size.terms.push_back({term.kind->tag(), shape.rank, shape.columns});
  }
  return describe_packed(size);
}

}  // namespace subbit
