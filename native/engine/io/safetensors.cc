// The proof of a safetensors header, and views of the tensors it announces. Every number is
// checked in the order in which a later check relies on it: file, header, entries, then how the
// entries lie together.
#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <tuple>

#include "base/check.h"
#include "io/json.h"
#include "io/safetensors_header.h"

namespace subbit {
namespace {

static_assert(std::endian::native == std::endian::little,
              "files are little-endian and used in place");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own reader

struct DTypeFacts {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};

constexpr std::array<DTypeFacts, 10> kDTypes = {{{DType::kF32, "F32", 4},
                                                 {DType::kF16, "F16", 2},
                                                 {DType::kBF16, "BF16", 2},
                                                 {DType::kU8, "U8", 1},
                                                 {DType::kI8, "I8", 1},
                                                 {DType::kU16, "U16", 2},
                                                 {DType::kU32, "U32", 4},
                                                 {DType::kI32, "I32", 4},
                                                 {DType::kI64, "I64", 8},
                                                 {DType::kF64, "F64", 8}}};

const DTypeFacts& facts_of(DType dtype) {
  for (const DTypeFacts& facts : kDTypes) {
    if (facts.dtype == dtype) return facts;
  }
  throw Error(ErrorCode::kInternal, "no such dtype");
}

/// One entry of the header, its numbers checked for themselves but not yet against the others.
struct Entry {
  TensorView view;
  uint64_t begin = 0;
  uint64_t end = 0;
};

class HeaderProof {
 public:
  HeaderProof(std::span<const std::byte> bytes, std::string_view where)
      : bytes_(bytes), where_(where) {}

  std::vector<TensorView> prove(std::vector<std::pair<std::string, std::string>>* metadata) {
    const Json header = Json::parse(header_text(), where_, kLengthBytes);
    const JsonObject* members = header.if_object();
    if (members == nullptr) fail("the header is no JSON object");
    for (const auto& [name, value] : *members) {
      if (name == "__metadata__") {
        read_metadata(value, metadata);
      } else {
        entries_.push_back(read_entry(name, value));
      }
    }
    check_cover();
    std::vector<TensorView> tensors;
    tensors.reserve(entries_.size());
    for (Entry& entry : entries_) tensors.push_back(std::move(entry.view));
    return tensors;
  }

 private:
  [[noreturn]] void fail(const std::string& what, std::vector<ErrorDetail> details = {}) const {
    details.insert(details.begin(), {"file", std::string(where_)});
    throw Error(ErrorCode::kCorruptFile, std::string(where_) + ": " + what, std::move(details));
  }
  [[noreturn]] void fail(const std::string& tensor, const std::string& what,
                         std::vector<ErrorDetail> details = {}) const {
    details.insert(details.begin(), {"tensor", quote_for_message(tensor)});
    fail("tensor " + quote_for_message(tensor) + ": " + what, std::move(details));
  }

  std::string_view header_text() {
    if (bytes_.size() < kLengthBytes) {
      fail("too short for a safetensors file",
           {{"expected", "8 bytes or more"}, {"actual", std::to_string(bytes_.size())}});
    }
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), sizeof length);
    if (length > kMaxHeaderBytes) {
      fail("the header is too long",
           {{"expected", "100000000 bytes or less"}, {"actual", std::to_string(length)}});
    }
    const uint64_t rest = bytes_.size() - kLengthBytes;
    if (length > rest) {
      fail("the file ends inside its header", {{"expected", std::to_string(length) + " bytes"},
                                               {"actual", std::to_string(rest) + " bytes"}});
    }
    data_ = bytes_.subspan(kLengthBytes + length);
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes,
                                length);
    // The format's own rule; it keeps text files from being taken for headers.
    if (text.empty() || text.front() != '{') fail("the header does not begin with {");
    return text;
  }

  void read_metadata(const Json& value,
                     std::vector<std::pair<std::string, std::string>>* metadata) const {
    const JsonObject* members = value.if_object();
    if (members == nullptr) fail("__metadata__ is no object");
    for (const auto& [key, text] : *members) {
      if (text.if_string() == nullptr)
        fail("__metadata__ " + quote_for_message(key) + " is no string");
      if (metadata != nullptr) metadata->emplace_back(key, *text.if_string());
    }
  }

  Entry read_entry(const std::string& name, const Json& value) const {
    const JsonObject* members = value.if_object();
    if (members == nullptr) fail(name, "its entry is no object");
    for (const auto& [key, unused] : *members) {
      // What we do not understand could change what the bytes mean.
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        fail(name, "unknown field " + quote_for_message(key));
    }
    Entry entry;
    entry.view.name = name;
    entry.view.dtype = read_dtype(name, value.find("dtype"));
    entry.view.shape = read_shape(name, value.find("shape"));
    read_offsets(value.find("data_offsets"), entry);
    check_length(entry);
    entry.view.bytes = data_.subspan(entry.begin, entry.end - entry.begin);
    return entry;
  }

  DType read_dtype(const std::string& name, const Json* value) const {
    if (value == nullptr || value->if_string() == nullptr) fail(name, "no dtype");
    const std::string& spelled = *value->if_string();
    for (const DTypeFacts& facts : kDTypes) {
      if (facts.name == spelled) return facts.dtype;
    }
    const std::string actual = quote_for_message(spelled);
    std::string expected = "one of";
    for (const DTypeFacts& facts : kDTypes) expected += " " + std::string(facts.name);
    throw Error(ErrorCode::kUnsupportedFormat,
                std::string(where_) + ": tensor " + quote_for_message(name) + ": unknown dtype",
                {{"file", std::string(where_)},
                 {"tensor", quote_for_message(name)},
                 {"expected", expected},
                 {"actual", actual}});
  }

  std::vector<int64_t> read_shape(const std::string& name, const Json* value) const {
    if (value == nullptr || value->if_array() == nullptr) fail(name, "no shape");
    std::vector<int64_t> shape;
    for (const Json& item : *value->if_array()) {
      const int64_t* size = item.if_int();
      if (size == nullptr || *size < 0) {
        fail(name, "a shape holds integers of zero or more",
             {{"actual", quote_for_message(item.dump())}});
      }
      shape.push_back(*size);
    }
    return shape;
  }

  void read_offsets(const Json* value, Entry& entry) const {
    const std::string& name = entry.view.name;
    const JsonArray* offsets = value == nullptr ? nullptr : value->if_array();
    if (offsets == nullptr || offsets->size() != 2) fail(name, "data_offsets are not two numbers");
    const int64_t* begin = (*offsets)[0].if_int();
    const int64_t* end = (*offsets)[1].if_int();
    if (begin == nullptr || end == nullptr || *begin < 0 || *end < *begin)
      fail(name, "data_offsets are not 0 <= begin <= end", {{"actual", value->dump()}});
    entry.begin = static_cast<uint64_t>(*begin);
    entry.end = static_cast<uint64_t>(*end);
    if (entry.end > data_.size()) {
      fail(name, "its data ends past the end of the file",
           {{"expected", std::to_string(entry.end) + " bytes of data"},
            {"actual", std::to_string(data_.size())}});
    }
  }

  void check_length(const Entry& entry) const {
    // Zeros are left out of the product, so that [2^62, 2^62, 0] cannot hide an overflow from
    // whoever multiplies a part of the shape.
    int64_t product = dtype_bytes(entry.view.dtype);
    bool empty = false;
    for (const int64_t size : entry.view.shape) {
      empty = empty || size == 0;
      if (size != 0 && __builtin_mul_overflow(product, size, &product))
        fail(entry.view.name, "the product of its shape overflows");
    }
    const uint64_t expected = empty ? 0 : static_cast<uint64_t>(product);
    if (entry.end - entry.begin != expected) {
      fail(entry.view.name, "the length of its data is not what its shape and dtype ask",
           {{"expected", std::to_string(expected) + " bytes"},
            {"actual", std::to_string(entry.end - entry.begin)}});
    }
  }

  /// Sorted by offset, the tensors must follow each other from the first byte of data to the last:
  /// bytes nobody owns are where a file hides a second content.
  void check_cover() {
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end, a.view.name) < std::tie(b.begin, b.end, b.view.name);
    });
    uint64_t covered = 0;
    for (const Entry& entry : entries_) {
      if (entry.begin != covered) {
        fail(
            entry.view.name,
            entry.begin < covered ? "overlaps the tensor before it" : "a hole lies before its data",
            {{"expected", "to begin at data byte " + std::to_string(covered)},
             {"actual", std::to_string(entry.begin)}});
      }
      covered = entry.end;
    }
    if (covered != data_.size()) {
      fail("data that belongs to no tensor",
           {{"expected", std::to_string(covered) + " bytes of data"},
            {"actual", std::to_string(data_.size())}});
    }
  }

  std::span<const std::byte> bytes_;
  std::string_view where_;
  std::span<const std::byte> data_;
  std::vector<Entry> entries_;
};

}  // namespace

std::string_view dtype_name(DType dtype) { return facts_of(dtype).name; }

int64_t dtype_bytes(DType dtype) { return facts_of(dtype).bytes; }

int64_t TensorView::count() const {
  return static_cast<int64_t>(bytes.size()) / dtype_bytes(dtype);
}

std::vector<TensorView> parse_safetensors(
    std::span<const std::byte> bytes, std::string_view where,
    std::vector<std::pair<std::string, std::string>>* metadata) {
  return HeaderProof(bytes, where).prove(metadata);
}

SafetensorsFile::SafetensorsFile(const std::string& path, Part part) : path_(path) {
  if (part == Part::kWhole) {
    mapping_ = std::make_shared<MappedFile>(path);
    bytes_ = mapping_->bytes();
  } else {
    header_ = std::make_shared<SafetensorsHeader>(path);
    bytes_ = header_->bytes();
  }
  tensors_ = parse_safetensors(bytes_, path, &metadata_);
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  for (const TensorView& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

}  // namespace subbit
