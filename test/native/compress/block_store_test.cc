#include "compress/block_store.h"

#include <filesystem>
#include <string>
#include <vector>

#include "compress/fingerprint.h"
#include "support/files.h"
#include "support/test.h"

namespace subbit {
namespace {

namespace fs = std::filesystem;

FinishedBlock block_of(std::byte fill) {
  FinishedBlock block;
  block.tensors.push_back({{"a.packed", DType::kU8, {96}}, std::vector<std::byte>(96, fill)});
  block.tensors.push_back({{"norm.weight", DType::kF16, {4}}, std::vector<std::byte>(8, fill)});
  CompressedLinear linear;
  linear.name = "a";
  linear.format = "factored r=32";
  linear.rows = 3;
  linear.cols = 5;
  linear.bytes = 96;
  linear.bits_per_weight = 51.2;
  linear.weight_error = 0.1 + 0.2;  // not a short decimal: it must survive as it is
  linear.output_error = 1.0 / 3.0;
  block.linears.push_back(linear);
  return block;
}

std::vector<TensorSpec> specs_of(const FinishedBlock& block) {
  std::vector<TensorSpec> specs;
  for (const FinishedTensor& tensor : block.tensors) specs.push_back(tensor.spec);
  return specs;
}

std::string path_of_block(const std::string& state, const std::string& key) {
  return state + "/" + key + "/block-00002.safetensors";
}

TEST(a_stored_block_comes_back_as_it_was) {
  const std::string state = test::temporary_directory() + "/state";
  BlockStore store(state, {"0123456789abcdef", "{}"});
  const FinishedBlock block = block_of(std::byte{7});
  EXPECT(store.load(2, specs_of(block)).file == nullptr);
  store.save(2, block);
  const StoredBlock stored = store.load(2, specs_of(block));
  EXPECT(stored.file != nullptr);
  for (const FinishedTensor& tensor : block.tensors) {
    const TensorView* view = stored.file->find(tensor.spec.name);
    EXPECT(view != nullptr);
    EXPECT(std::equal(view->bytes.begin(), view->bytes.end(), tensor.bytes.begin(),
                      tensor.bytes.end()));
  }
  EXPECT_EQ(stored.linears.size(), size_t{1});
  EXPECT_EQ(stored.linears[0].name, "a");
  EXPECT_EQ(stored.linears[0].bytes, uint64_t{96});
  EXPECT_EQ(stored.linears[0].weight_error, 0.1 + 0.2);
  EXPECT_EQ(stored.linears[0].output_error, 1.0 / 3.0);
}

TEST(stored_numbers_come_back_to_the_bit_or_not_at_all) {
  const std::string state = test::temporary_directory() + "/state";
  BlockStore store(state, {"k", "{}"});
  const Numbers numbers = {{"a", 0.1 + 0.2}, {"b", 1e-300}, {"c", 0.0}};
  EXPECT(store.load_numbers("costs").empty());
  store.save_numbers("costs", numbers);
  EXPECT(store.load_numbers("costs") == numbers);
  const std::string path = state + "/k/costs.json";
  const std::string whole = test::read_file(path);
  for (size_t length = 0; length < whole.size(); ++length) {
    test::write_file(path, whole.substr(0, length));
    EXPECT(store.load_numbers("costs").empty());
  }
  test::write_file(path, "{\"a\": \"much\"}");
  EXPECT(store.load_numbers("costs").empty());
}

TEST(a_stored_block_cut_short_anywhere_is_made_again) {
  const std::string state = test::temporary_directory() + "/state";
  BlockStore store(state, {"k", "{}"});
  const FinishedBlock block = block_of(std::byte{7});
  store.save(2, block);
  const std::string whole = test::read_file(path_of_block(state, "k"));
  for (size_t length = 0; length < whole.size(); length += length < 700 ? 1 : 997) {
    test::write_file(path_of_block(state, "k"), whole.substr(0, length));
    EXPECT(store.load(2, specs_of(block)).file == nullptr);
  }
  test::write_file(path_of_block(state, "k"), whole);
  EXPECT(store.load(2, specs_of(block)).file != nullptr);
}

TEST(a_stored_block_of_other_tensors_is_made_again) {
  const std::string state = test::temporary_directory() + "/state";
  BlockStore store(state, {"k", "{}"});
  store.save(2, block_of(std::byte{1}));
  std::vector<TensorSpec> expected = specs_of(block_of(std::byte{1}));
  expected[0].shape = {128};
  EXPECT(store.load(2, expected).file == nullptr);
  expected[0].shape = {96};
  expected[1].dtype = DType::kBF16;
  EXPECT(store.load(2, expected).file == nullptr);
  expected.pop_back();
  EXPECT(store.load(2, expected).file == nullptr);
}

TEST(another_request_neither_uses_nor_loses_stored_blocks) {
  const std::string state = test::temporary_directory() + "/state";
  const FinishedBlock block = block_of(std::byte{7});
  BlockStore ours(state, {"ours", "{}"});
  ours.save(2, block);
  {
    BlockStore theirs(state, {"theirs", "{}"});
    EXPECT(theirs.load(2, specs_of(block)).file == nullptr);
    theirs.save(2, block);
    theirs.remove();
  }
  EXPECT(ours.load(2, specs_of(block)).file != nullptr);
  ours.remove();
  EXPECT(!fs::exists(state));
}

TEST(a_state_directory_that_holds_something_else_is_left_alone) {
  const std::string state = test::temporary_directory();
  test::write_file(state + "/notes.txt", "mine");
  BlockStore store(state, {"k", "{}"});
  store.save(2, block_of(std::byte{1}));
  store.remove();
  EXPECT(fs::exists(state + "/notes.txt"));
  EXPECT(!fs::exists(state + "/k"));
}

TEST(a_fingerprint_tells_requests_apart_that_give_other_bytes) {
  const Checkpoint llama = Checkpoint::open(test::fixture("models/tiny-llama"));
  const Checkpoint linear = Checkpoint::open(test::fixture("models/tiny-linear"));
  CompressRequest request;
  request.calibration = {{1, 2, 3}, {1}};
  const std::string key = fingerprint(request, llama).key;
  EXPECT_EQ(key.size(), size_t{16});

  CompressRequest same = request;
  same.threads = 3;
  same.out = "elsewhere";
  EXPECT_EQ(fingerprint(same, llama).key, key);
  EXPECT(fingerprint(request, linear).key != key);
  std::vector<CompressRequest> others(4, request);
  others[0].seed = 1;
  others[1].target.amount = 0.81;
  others[2].effort = Effort::kMax;
  others[3].calibration = {{1, 2}, {3, 1}};  // the same tokens, cut elsewhere
  for (const CompressRequest& other : others) EXPECT(fingerprint(other, llama).key != key);
}

TEST(a_fingerprint_notices_a_changed_weight) {
  const std::string directory = test::temporary_directory();
  for (const char* name : {"config.json", "model.safetensors"})
    fs::copy_file(test::fixture(std::string("models/tiny-llama/") + name), directory + "/" + name);
  const CompressRequest request;
  const std::string before = fingerprint(request, Checkpoint::open(directory)).key;
  std::string bytes = test::read_file(directory + "/model.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  test::write_file(directory + "/model.safetensors", bytes);
  EXPECT(fingerprint(request, Checkpoint::open(directory)).key != before);
}

}  // namespace
}  // namespace subbit
