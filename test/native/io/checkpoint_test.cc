// Hugging Face directories: one file, shards, and the ways in which an index can lie.
#include "io/checkpoint.h"

#include <filesystem>
#include <string>

#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

using test::safetensors_bytes;
using test::write_file;

/// One U8 tensor of four bytes.
std::string shard_of(const std::string& name) {
  return safetensors_bytes(R"({")" + name + R"(":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                           "data");
}

std::string directory_with_config() {
  const std::string directory = test::temporary_directory();
  write_file(directory + "/config.json", R"({"model_type":"llama"})");
  return directory;
}

std::string directory_with_index(const std::string& weight_map) {
  const std::string directory = directory_with_config();
  write_file(directory + "/one.safetensors", shard_of("a"));
  write_file(directory + "/two.safetensors", shard_of("b"));
  write_file(directory + "/model.safetensors.index.json",
             R"({"metadata":{"total_size":8},"weight_map":)" + weight_map + "}");
  return directory;
}

void refuse_index(const std::string& weight_map, const std::string& reason) {
  const std::string directory = directory_with_index(weight_map);
  EXPECT_ERROR(ErrorCode::kCorruptFile, reason, Checkpoint::open(directory));
}

TEST(checkpoint_of_one_file_opens_with_its_config) {
  const std::string directory = directory_with_config();
  write_file(directory + "/model.safetensors", shard_of("w"));
  for (const std::string& path : {directory, directory + "/"}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    EXPECT_EQ(checkpoint.path(), path);
    EXPECT_EQ(*checkpoint.config().find("model_type")->if_string(), "llama");
    EXPECT_EQ(checkpoint.tensors().size(), 1u);
    EXPECT(checkpoint.find("w") != nullptr);
    EXPECT(checkpoint.find("v") == nullptr);
    EXPECT_EQ(checkpoint.file_bytes(),
              std::filesystem::file_size(directory + "/model.safetensors"));
  }
}

TEST(checkpoint_says_what_it_looked_for) {
  const std::string directory = test::temporary_directory();
  EXPECT_ERROR(ErrorCode::kFileError, "config.json and model.safetensors",
               Checkpoint::open(directory + "/none"));
  EXPECT_ERROR(ErrorCode::kFileError, "actual no config.json", Checkpoint::open(directory));
  write_file(directory + "/config.json", "{}");
  EXPECT_ERROR(ErrorCode::kFileError, "model.safetensors.index.json, actual config.json alone",
               Checkpoint::open(directory));
  write_file(directory + "/model.safetensors", shard_of("w"));
  EXPECT_ERROR(ErrorCode::kFileError, "weights without their config.json",
               Checkpoint::open(directory + "/model.safetensors"));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "too short for a llama2.c checkpoint",
               Checkpoint::open(directory + "/config.json"));
}

TEST(checkpoint_refuses_a_config_that_is_no_object) {
  const std::string directory = test::temporary_directory();
  write_file(directory + "/model.safetensors", shard_of("w"));
  write_file(directory + "/config.json", "[]");
  EXPECT_ERROR(ErrorCode::kCorruptFile, "config.json: not a JSON object",
               Checkpoint::open(directory));
  write_file(directory + "/config.json", "");
  EXPECT_ERROR(ErrorCode::kCorruptFile, "config.json: invalid JSON at byte 0",
               Checkpoint::open(directory));
  write_file(directory + "/config.json", R"({"hidden_size":)");
  EXPECT_ERROR(ErrorCode::kCorruptFile, "config.json: invalid JSON at byte 15",
               Checkpoint::open(directory));
}

TEST(checkpoint_of_shards_shows_all_tensors_sorted) {
  const std::string directory =
      directory_with_index(R"({"b":"two.safetensors","a":"one.safetensors"})");
  const Checkpoint checkpoint = Checkpoint::open(directory);
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.tensors()[0].name, "a");
  EXPECT_EQ(checkpoint.tensors()[1].name, "b");
  EXPECT_EQ(checkpoint.file_bytes(), shard_of("a").size() * 2);
}

TEST(checkpoint_views_survive_a_move_of_their_owner) {
  const std::string directory =
      directory_with_index(R"({"b":"two.safetensors","a":"one.safetensors"})");
  Checkpoint first = Checkpoint::open(directory);
  const std::byte* data = first.tensors()[0].bytes.data();
  const Checkpoint second = std::move(first);
  EXPECT(second.tensors()[0].bytes.data() == data);
  EXPECT_EQ(static_cast<char>(*data), 'd');
}

TEST(checkpoint_shard_names_cannot_leave_the_directory) {
  for (const char* name : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".",
                           "", "a\\\\b", "one.safetensors\\u0000", "./one.safetensors"}) {
    refuse_index(R"({"a":")" + std::string(name) + R"("})", "no file name");
  }
  refuse_index(R"({"a":1})", "no file name");
  refuse_index(R"({"a":null})", "no file name");
}

TEST(checkpoint_with_a_missing_or_broken_shard_names_it) {
  const std::string missing =
      directory_with_index(R"({"a":"one.safetensors","b":"three.safetensors"})");
  EXPECT_ERROR(ErrorCode::kFileError, "three.safetensors: this shard", Checkpoint::open(missing));
  const std::string truncated =
      directory_with_index(R"({"b":"two.safetensors","a":"one.safetensors"})");
  std::filesystem::resize_file(truncated + "/two.safetensors", shard_of("b").size() - 1);
  EXPECT_ERROR(ErrorCode::kCorruptFile, "two.safetensors: tensor \"b\"",
               Checkpoint::open(truncated));
  std::filesystem::remove(truncated + "/two.safetensors");
  std::filesystem::create_directory(truncated + "/two.safetensors");
  EXPECT_ERROR(ErrorCode::kFileError, "two.safetensors: cannot map: Is a directory",
               Checkpoint::open(truncated));
}

TEST(checkpoint_index_and_shards_must_agree_about_every_tensor) {
  refuse_index(R"({"a":"one.safetensors","b":"one.safetensors"})",
               "tensor \"b\" is not in its shard");
  refuse_index(R"({"a":"one.safetensors","c":"two.safetensors"})",
               "tensor \"c\" is not in its shard");
  const std::string extra = directory_with_index(R"({"a":"one.safetensors"})");
  write_file(extra + "/one.safetensors",
             safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                               R"("x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                               "ab"));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "tensor \"x\" of shard \"one.safetensors\" is not in",
               Checkpoint::open(extra));
  const std::string twice =
      directory_with_index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  write_file(twice + "/two.safetensors",
             safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                               R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                               "ab"));
  EXPECT_ERROR(ErrorCode::kCorruptFile, "tensor \"a\" is in two shards", Checkpoint::open(twice));
}

TEST(checkpoint_refuses_an_index_without_a_map) {
  refuse_index("[]", "no weight_map object");
  const std::string directory = directory_with_index("{}");
  EXPECT(Checkpoint::open(directory).tensors().empty());
  write_file(directory + "/model.safetensors.index.json", "{}");
  EXPECT_ERROR(ErrorCode::kCorruptFile, "index.json: no weight_map", Checkpoint::open(directory));
  write_file(directory + "/model.safetensors.index.json", R"({"weight_map":{"a":"x","a":"y"}})");
  EXPECT_ERROR(ErrorCode::kCorruptFile, "duplicate key \"a\"", Checkpoint::open(directory));
}

TEST(checkpoint_tensors_that_lie_askew_are_moved_to_where_pointers_may_point) {
  const std::string directory = directory_with_config();
  const std::string data = "x12345678abcdefghP...yz";
  std::string header = R"({"u":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},)"
                       R"("f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},)"
                       R"("d":{"dtype":"F64","shape":[1],"data_offsets":[9,17]},)"
                       R"("p":{"dtype":"U8","shape":[4],"data_offsets":[17,21]},)"
                       R"("h":{"dtype":"BF16","shape":[1],"data_offsets":[21,23]}})";
  for (int pad = 0; pad < 8; ++pad, header += ' ') {
    write_file(directory + "/model.safetensors", safetensors_bytes(header, data));
    const Checkpoint checkpoint = Checkpoint::open(directory);
    const auto text = [&](const char* name) {
      const TensorView* tensor = checkpoint.find(name);
      return std::string(reinterpret_cast<const char*>(tensor->bytes.data()), tensor->bytes.size());
    };
    const auto address = [&](const char* name) {
      return reinterpret_cast<uintptr_t>(checkpoint.find(name)->bytes.data());
    };
    EXPECT_EQ(text("u"), "x");
    EXPECT_EQ(text("f"), "12345678");
    EXPECT_EQ(text("d"), "abcdefgh");
    EXPECT_EQ(text("p"), "P...");
    EXPECT_EQ(text("h"), "yz");
    EXPECT_EQ(address("f") % 4, 0u);
    EXPECT_EQ(address("d") % 8, 0u);
    EXPECT_EQ(address("p") % 4, 0u);
    EXPECT_EQ(address("h") % 2, 0u);
  }
}

TEST(checkpoint_real_models_open) {
  const std::pair<const char*, size_t> models[] = {
      {"stories260K", 47}, {"stories15M", 56}, {"TinyStories-656K", 20}};
  for (const auto& [name, count] : models) {
    const std::string path = test::shared_data("models/" + std::string(name));
    const Checkpoint checkpoint = Checkpoint::open(path);
    EXPECT_EQ(checkpoint.tensors().size(), count);
    EXPECT_EQ(*checkpoint.config().find("model_type")->if_string(), "llama");
    EXPECT_EQ(checkpoint.file_bytes(), std::filesystem::file_size(path + "/model.safetensors"));
  }
}

}  // namespace
}  // namespace subbit
