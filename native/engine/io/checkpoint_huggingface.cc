// Reads a Hugging Face directory: config.json, then either one weight file or the shards that an
// index names. The index is as hostile as any file: a shard's name must stay inside the directory,
// and index and shards must agree about every tensor.
#include <algorithm>
#include <map>
#include <string_view>
#include <sys/stat.h>

#include "base/error.h"
#include "io/checkpoint_contents.h"
#include "io/mapped_file.h"

namespace subbit {
namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

bool exists(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0;
}

std::string inside(const std::string& directory, std::string_view name) {
  std::string path = directory;
  if (path.empty() || path.back() != '/') path.push_back('/');
  return path.append(name);
}

Json read_json_object(const std::string& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  Json json = Json::parse(text, path);
  if (json.if_object() == nullptr)
    throw Error(ErrorCode::kCorruptFile, path + ": not a JSON object", {{"file", path}});
  return json;
}

/// A plain file name: nothing that leads out of the directory, or into another one.
bool is_plain_name(std::string_view name) {
  if (name.empty() || name == "." || name == "..") return false;
  return std::none_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20;
  });
}

SafetensorsFile::Part part_of(CheckpointData data) {
  return data == CheckpointData::kUsable ? SafetensorsFile::Part::kWhole
                                         : SafetensorsFile::Part::kHeader;
}

class ShardReader {
 public:
  ShardReader(const std::string& directory, CheckpointData data, CheckpointContents& contents)
      : directory_(directory),
        index_path_(inside(directory, kIndex)),
        data_(data),
        contents_(contents) {}

  void read() {
    const Json index = read_json_object(index_path_);
    const Json* map = index.find("weight_map");
    if (map == nullptr || map->if_object() == nullptr) fail("no weight_map object");
    for (const auto& [tensor, shard] : *map->if_object()) {
      if (shard.if_string() == nullptr || !is_plain_name(*shard.if_string())) {
        fail("tensor " + quote_for_message(tensor) + " lies in something that is no file name",
             {{"expected", "a file of the same directory"},
              {"actual", quote_for_message(shard.dump())}});
      }
      shards_[*shard.if_string()].push_back(tensor);
    }
    for (auto& [shard, announced] : shards_) read_shard(shard, announced);
  }

 private:
  [[noreturn]] void fail(const std::string& what, std::vector<ErrorDetail> details = {}) const {
    details.insert(details.begin(), {"file", index_path_});
    throw Error(ErrorCode::kCorruptFile, index_path_ + ": " + what, std::move(details));
  }

  /// Names are unique inside the index and inside a shard, so when every shard holds exactly what
  /// the index says it holds, no tensor is in two shards and none is unclaimed.
  void read_shard(const std::string& shard, std::vector<std::string>& announced) {
    const std::string path = inside(directory_, shard);
    if (!exists(path)) {
      throw Error(ErrorCode::kFileError, path + ": this shard, named by " + kIndex + ", is missing",
                  {{"file", path}, {"index", index_path_}});
    }
    auto file = std::make_shared<SafetensorsFile>(path, part_of(data_));
    std::vector<std::string_view> held;
    for (const TensorView& tensor : file->tensors()) held.push_back(tensor.name);
    std::sort(held.begin(), held.end());
    std::sort(announced.begin(), announced.end());
    for (const std::string& name : announced) {
      if (!std::binary_search(held.begin(), held.end(), name)) {
        fail("tensor " + quote_for_message(name) + " is not in its shard",
             {{"expected", "in " + quote_for_message(shard)}, {"actual", "absent"}});
      }
    }
    for (const std::string_view name : held) {
      if (!std::binary_search(announced.begin(), announced.end(), name)) refuse(shard, name);
    }
    contents_.tensors.insert(contents_.tensors.end(), file->tensors().begin(),
                             file->tensors().end());
    contents_.file_bytes += file->file_bytes();
    if (file->mapping() != nullptr) contents_.files.push_back(file->mapping());
    contents_.owners.push_back(std::move(file));
  }

  /// A tensor the index does not place in this shard: in another one, or nowhere.
  [[noreturn]] void refuse(const std::string& shard, std::string_view name) const {
    for (const auto& [other, names] : shards_) {
      if (std::find(names.begin(), names.end(), name) != names.end()) {
        fail("tensor " + quote_for_message(name) + " is in two shards",
             {{"expected", "in " + quote_for_message(other) + " alone"},
              {"actual", "also in " + quote_for_message(shard)}});
      }
    }
    fail("tensor " + quote_for_message(name) + " of shard " + quote_for_message(shard) +
         " is not in weight_map");
  }

  const std::string& directory_;
  std::string index_path_;
  CheckpointData data_;
  CheckpointContents& contents_;
  std::map<std::string, std::vector<std::string>> shards_;  // file name to tensor names
};

}  // namespace

CheckpointContents read_huggingface(const std::string& directory, CheckpointData data) {
  const std::string single = inside(directory, kSingleFile);
  const std::string config = inside(directory, kConfig);
  const bool has_single = exists(single);
  if (!exists(config) || (!has_single && !exists(inside(directory, kIndex)))) {
    throw Error(ErrorCode::kFileError, directory + ": no model in this directory",
                {{"file", directory},
                 {"expected", "config.json, and model.safetensors or model.safetensors.index.json"},
                 {"actual", exists(config) ? "config.json alone" : "no config.json"}});
  }
  CheckpointContents contents;
  contents.config = read_json_object(config);
  // Where both are, the single file wins, as it does in Hugging Face's own loader.
  if (has_single) {
    auto file = std::make_shared<SafetensorsFile>(single, part_of(data));
    contents.tensors = file->tensors();
    contents.file_bytes = file->file_bytes();
    if (file->mapping() != nullptr) contents.files.push_back(file->mapping());
    contents.owners.push_back(std::move(file));
  } else {
    ShardReader(directory, data, contents).read();
  }
  return contents;
}

}  // namespace subbit
