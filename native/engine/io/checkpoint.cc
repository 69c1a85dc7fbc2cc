// Opens a checkpoint of either kind and puts its tensors in order: by name, and each where a
// pointer of its dtype may point.
#include "io/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/stat.h>
#include <system_error>

#include "base/buffer.h"
#include "base/error.h"
#include "io/checkpoint_contents.h"

namespace subbit {
namespace {

/// U8 tensors hold packed layouts, whose fields are 16 and 32 bits wide.
constexpr uintptr_t kPackedAlignment = 4;

uintptr_t alignment_of(DType dtype) {
  return dtype == DType::kU8 ? kPackedAlignment : static_cast<uintptr_t>(dtype_bytes(dtype));
}

/// The container lets a tensor begin at any byte; what lies askew is copied.
void align_tensors(CheckpointContents& contents, CheckpointData data) {
  for (TensorView& tensor : contents.tensors) {
    const auto address = reinterpret_cast<uintptr_t>(tensor.bytes.data());
    if (address % alignment_of(tensor.dtype) == 0) continue;
    contents.private_bytes += tensor.bytes.size();
    if (data == CheckpointData::kHeadersOnly) continue;
    auto owned = std::make_shared<Buffer<std::byte>>(static_cast<int64_t>(tensor.bytes.size()));
    if (!tensor.bytes.empty()) std::memcpy(owned->data(), tensor.bytes.data(), tensor.bytes.size());
    tensor.bytes = owned->span();
    contents.owners.push_back(std::move(owned));
  }
}

constexpr const char* kExpected =
    "a directory with config.json and model.safetensors (or shards and "
    "model.safetensors.index.json), or a legacy llama2.c checkpoint file";

CheckpointContents read_either(const std::string& path, CheckpointData data) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) {
    const std::string reason = std::generic_category().message(errno);
    throw Error(ErrorCode::kFileError, path + ": no model here",
                {{"file", path}, {"expected", kExpected}, {"actual", reason}});
  }
  if (S_ISDIR(status.st_mode)) return read_huggingface(path, data);
  if (path.ends_with(".safetensors")) {
    throw Error(ErrorCode::kFileError, path + ": weights without their config.json",
                {{"file", path}, {"expected", kExpected}, {"actual", "a .safetensors file"}});
  }
  return read_llama2c(path, data);
}

}  // namespace

struct Checkpoint::State {
  std::string path;
  CheckpointContents contents;
};

Checkpoint Checkpoint::open(const std::string& path, CheckpointData data) {
  auto state = std::make_unique<State>(State{path, read_either(path, data)});
  align_tensors(state->contents, data);
  std::vector<TensorView>& tensors = state->contents.tensors;
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  return Checkpoint(std::move(state));
}

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

const std::string& Checkpoint::path() const { return state_->path; }
const Json& Checkpoint::config() const { return state_->contents.config; }
const std::vector<TensorView>& Checkpoint::tensors() const { return state_->contents.tensors; }
std::vector<std::span<const std::byte>> Checkpoint::mappings() const {
  std::vector<std::span<const std::byte>> all;
  for (const auto& file : state_->contents.files) all.push_back(file->bytes());
  return all;
}
uint64_t Checkpoint::file_bytes() const { return state_->contents.file_bytes; }
uint64_t Checkpoint::private_bytes() const { return state_->contents.private_bytes; }

void Checkpoint::check_unchanged() const {
  for (const auto& file : state_->contents.files) file->check_unchanged();
}

void Checkpoint::touch() const {
  constexpr size_t kSmallestPage = 4096;
  // A volatile read is one that no compiler leaves out.
  const auto read = [](const std::byte& byte) {
    static_cast<void>(*static_cast<const volatile std::byte*>(&byte));
  };
  for (const TensorView& tensor : tensors()) {
    for (size_t at = 0; at < tensor.bytes.size(); at += kSmallestPage) read(tensor.bytes[at]);
    if (!tensor.bytes.empty()) read(tensor.bytes.back());
  }
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const std::vector<TensorView>& all = tensors();
  const auto found = std::lower_bound(
      all.begin(), all.end(), name,
      [](const TensorView& t, std::string_view wanted) { return t.name < wanted; });
  return found != all.end() && found->name == name ? &*found : nullptr;
}

}  // namespace subbit
