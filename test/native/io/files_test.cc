// Mapping files and writing them whole or not at all, also when the writer is killed, refused
// space, or not alone.
#include "support/files.h"

#include <csignal>
#include <filesystem>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/file_writer.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "support/test.h"

namespace subbit {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

int files_in(const std::string& directory) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

TEST(a_mapped_file_shows_its_bytes_and_outlives_its_name) {
  const std::string path = test::temporary_directory() + "/f";
  test::write_file(path, "hello");
  const MappedFile file(path);
  EXPECT_EQ(text_of(file), "hello");
  unlink(path.c_str());
  EXPECT_EQ(text_of(file), "hello");
  EXPECT_EQ(file.path(), path);
}

TEST(an_empty_file_maps_to_no_bytes) {
  const std::string path = test::temporary_directory() + "/empty";
  test::write_file(path, "");
  EXPECT(MappedFile(path).bytes().empty());
}

TEST(what_cannot_be_mapped_says_why_and_does_not_hang) {
  const std::string directory = test::temporary_directory();
  EXPECT_ERROR(ErrorCode::kFileError, "/none: cannot open: No such file",
               MappedFile(directory + "/none"));
  EXPECT_ERROR(ErrorCode::kFileError, "Is a directory", MappedFile{directory});
  EXPECT_ERROR(ErrorCode::kFileError, "cannot open: Not a directory",
               test::write_file(directory + "/f", "x");
               MappedFile(directory + "/f/g"));
  const std::string pipe = directory + "/pipe";
  EXPECT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_ERROR(ErrorCode::kFileError, "not a regular file", MappedFile{pipe});
}

TEST(a_written_file_appears_only_when_committed) {
  const std::string directory = test::temporary_directory();
  const std::string path = directory + "/out";
  FileWriter writer(path);
  writer.write("hello ");
  writer.write(std::string_view("world\0", 6));
  writer.write("");
  EXPECT(!test::file_exists(path));
  writer.commit();
  EXPECT_EQ(test::read_file(path), std::string("hello world\0", 12));
  EXPECT_EQ(files_in(directory), 1);
  EXPECT_ERROR(ErrorCode::kInternal, "check failed", writer.write("more"));
  EXPECT_ERROR(ErrorCode::kInternal, "check failed", writer.commit());
}

TEST(a_file_of_many_blocks_written_in_pieces_of_any_size_reads_back_as_it_was_written) {
  const std::string path = test::temporary_directory() + "/out";
  const int64_t block = int64_t{2} << 20;
  std::string all(static_cast<size_t>(7 * block + 12345), '\0');
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<char>(i * 2654435761u >> 13);
  FileWriter writer(path);
  const std::string_view bytes = all;
  size_t at = 0;
  const int64_t sizes[] = {1, block - 1, block, 5, block - 6, block + 1, 0, 2 * block - 1};
  for (const int64_t size : sizes) {
    writer.write(bytes.substr(at, static_cast<size_t>(size)));
    at += static_cast<size_t>(size);
  }
  writer.write(bytes.substr(at));
  writer.commit();
  EXPECT(test::read_file(path) == all);
}

TEST(an_abandoned_write_leaves_the_old_file_and_nothing_else) {
  const std::string directory = test::temporary_directory();
  const std::string path = directory + "/out";
  test::write_file(path, "old");
  {
    FileWriter writer(path);
    writer.write("new");
  }
  EXPECT_EQ(test::read_file(path), "old");
  EXPECT_EQ(files_in(directory), 1);
  FileWriter writer(path);
  writer.write("new");
  writer.commit();
  EXPECT_EQ(test::read_file(path), "new");
}

TEST(a_killed_writer_leaves_no_file_under_the_name_and_the_next_one_cleans_up) {
  const std::string directory = test::temporary_directory();
  const std::string path = directory + "/out";
  const pid_t child = fork();
  if (child == 0) {
    FileWriter writer(path);
    writer.write("half of a much longer file");
    raise(SIGKILL);
    _exit(1);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT(WIFSIGNALED(status));
  EXPECT(!test::file_exists(path));
  {
    FileWriter writer(path);
    writer.write("whole");
    writer.commit();
  }
  EXPECT_EQ(test::read_file(path), "whole");
  EXPECT_EQ(files_in(directory), 1);
}

TEST(two_writers_of_one_file_do_not_mix_their_bytes) {
  const std::string directory = test::temporary_directory();
  const std::string path = directory + "/out";
  FileWriter first(path);
  first.write("first");
  EXPECT_ERROR(ErrorCode::kFileError, "another writer is at work", FileWriter(path).write("x"));
  first.write(" still");
  first.commit();
  EXPECT_EQ(test::read_file(path), "first still");
  FileWriter second(path);  // the lock went with the commit
  second.write("second");
  second.commit();
  EXPECT_EQ(test::read_file(path), "second");
  EXPECT_EQ(files_in(directory), 1);
}

TEST(a_full_disk_is_a_named_error_and_leaves_nothing) {
  const std::string directory = test::temporary_directory();
  const std::string path = directory + "/out";
  // A limit on the size of files stands in for the full disk.
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 5000;
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    FileWriter writer(path);
    writer.write(std::string(100000, 'x'));
    writer.commit();
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, previous);
  EXPECT(message.find("cannot write: File too large") != std::string::npos);
  EXPECT_EQ(files_in(directory), 0);
}

TEST(a_place_that_cannot_be_written_is_a_named_error) {
  const std::string directory = test::temporary_directory();
  EXPECT_ERROR(ErrorCode::kFileError, "cannot create: No such file",
               FileWriter(directory + "/none/out"));
  std::filesystem::create_directory(directory + "/taken");
  EXPECT_ERROR(ErrorCode::kFileError, "cannot rename to: Is a directory",
               FileWriter(directory + "/taken").commit());
  EXPECT_EQ(files_in(directory), 1);
}

std::vector<TensorSpec> two_specs() {
  return {{"model.a.packed", DType::kU8, {6}}, {"model.b.weight", DType::kF32, {1, 2}}};
}

const std::vector<std::pair<std::string, std::string>> kMetadata = {{"format", "pt"},
                                                                    {"quote\"", "\n"}};

void write_two(const std::string& path) {
  SafetensorsWriter writer(path, two_specs(), kMetadata);
  writer.write("model.a.packed", test::as_bytes("sixsix"));
  writer.write("model.b.weight", test::as_bytes("eighteig"));
  writer.commit();
}

TEST(a_safetensors_file_reads_back_as_it_was_written_and_starts_on_a_page) {
  const std::string directory = test::temporary_directory();
  const std::string path = directory + "/m.safetensors";
  write_two(path);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.tensors().size(), 2u);
  const TensorView* a = file.find("model.a.packed");
  const TensorView* b = file.find("model.b.weight");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(a->bytes.data()), 6), "sixsix");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(b->bytes.data()), 8), "eighteig");
  EXPECT(b->shape == (std::vector<int64_t>{1, 2}));
  EXPECT(b->dtype == DType::kF32);
  EXPECT(file.metadata() == kMetadata);
  EXPECT_EQ(file.file_bytes(), 16384u + 14u);
  const std::string once = test::read_file(path);
  EXPECT_EQ(once.substr(16384), "sixsixeighteig");
  write_two(path);
  EXPECT(test::read_file(path) == once);
}

TEST(a_header_that_fills_its_page_exactly_or_by_one_byte_more_stays_aligned) {
  const std::string directory = test::temporary_directory();
  for (size_t length = 16384 - 120; length < 16384 - 40; ++length) {
    const std::string path = directory + "/m.safetensors";
    const std::string name(length, 'n');
    SafetensorsWriter writer(path, {{name, DType::kU8, {3}}}, {});
    writer.write(name, test::as_bytes("abc"));
    writer.commit();
    const SafetensorsFile file(path);
    const uint64_t data_begins = file.file_bytes() - 3;
    EXPECT_EQ(data_begins % 16384, 0u);
    EXPECT(data_begins == 16384 || data_begins == 32768);
  }
}

TEST(the_safetensors_writer_refuses_what_was_not_announced) {
  const std::string directory = test::temporary_directory();
  const std::string path = directory + "/m.safetensors";
  {
    SafetensorsWriter writer(path, two_specs(), {});
    EXPECT_ERROR(ErrorCode::kInternal, "expected \"model.a.packed\" of 6 bytes, actual \"model.b",
                 writer.write("model.b.weight", test::as_bytes("eighteig")));
    EXPECT_ERROR(ErrorCode::kInternal, "of 6 bytes, actual \"model.a.packed\" of 5 bytes",
                 writer.write("model.a.packed", test::as_bytes("fives")));
    writer.write("model.a.packed", test::as_bytes("sixsix"));
    EXPECT_ERROR(ErrorCode::kInternal, "check failed", writer.commit());
  }
  EXPECT_EQ(files_in(directory), 0);
  EXPECT_ERROR(ErrorCode::kInternal, "check failed",
               SafetensorsWriter(path, {{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}, {}));
  EXPECT_ERROR(ErrorCode::kInternal, "check failed",
               SafetensorsWriter(path, {{"__metadata__", DType::kU8, {1}}}, {}));
  EXPECT_ERROR(ErrorCode::kInternal, "check failed",
               SafetensorsWriter(path, {{"a", DType::kU8, {-1}}}, {}));
  EXPECT_ERROR(
      ErrorCode::kInternal, "check failed",
      SafetensorsWriter(path, {{"a", DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}}}, {}));
  EXPECT_EQ(files_in(directory), 0);
}

}  // namespace
}  // namespace subbit
