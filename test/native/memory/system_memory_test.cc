// Limits as systems report them: machines made of files.
#include "memory/system_memory.h"

#include <filesystem>
#include <fstream>

#include "support/test.h"

namespace subbit {
namespace {

void write(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

TEST(proc_fields_are_kilobytes_by_exact_name) {
  const std::string text = "MemTotal:       24000 kB\nMemAvailable:    1234 kB\nVmRSS:\t 7 kB\n";
  EXPECT_EQ(proc_field(text, "MemAvailable").value_or(0), uint64_t{1234 * 1024});
  EXPECT_EQ(proc_field(text, "VmRSS").value_or(0), uint64_t{7 * 1024});
  EXPECT(!proc_field(text, "Mem").has_value());
  EXPECT(!proc_field("MemTotal: much", "MemTotal").has_value());
}

TEST(the_tightest_group_of_version_2_binds_and_its_page_cache_counts_as_left) {
  const std::string root = test::temporary_directory();
  write(root + "/outer/memory.max", "1000\n");
  write(root + "/outer/memory.current", "900\n");
  write(root + "/outer/memory.stat", "anon 300\ninactive_file 400\nactive_file 200\n");
  write(root + "/outer/inner/memory.max", "max\n");
  const GroupMemory group = group_memory("0::/outer/inner\n", root);
  EXPECT_EQ(group.limit, uint64_t{1000});
  EXPECT_EQ(group.reclaimable, uint64_t{600});
  write(root + "/outer/inner/memory.max", "500\n");
  write(root + "/outer/inner/memory.current", "100\n");
  EXPECT_EQ(group_memory("0::/outer/inner\n", root).limit, uint64_t{500});
}

TEST(version_1_groups_are_found_by_their_controller_and_may_be_unlimited) {
  const std::string root = test::temporary_directory();
  write(root + "/memory/jobs/memory.limit_in_bytes", "2048\n");
  write(root + "/memory/jobs/memory.usage_in_bytes", "1024\n");
  write(root + "/memory/jobs/memory.stat", "cache 512\ntotal_inactive_file 256\n");
  const std::string self = "9:cpuset:/\n4:memory:/jobs\n1:cpu:/\n";
  const GroupMemory group = group_memory(self, root);
  EXPECT_EQ(group.limit, uint64_t{2048});
  EXPECT_EQ(group.usage, uint64_t{1024});
  EXPECT_EQ(group.reclaimable, uint64_t{256});
  write(root + "/memory/jobs/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(group_memory(self, root).limit, uint64_t{0});
  EXPECT_EQ(group_memory("", root).limit, uint64_t{0});
}

TEST(the_tightest_limit_is_named_and_a_budget_wins) {
  SystemMemory system;
  system.physical = 8000;
  system.available = 3000;
  ProcessMemory process;
  process.resident = 500;
  process.anonymous = 200;
  EXPECT_EQ(memory_limit(0, system, process).bytes, uint64_t{3500});
  EXPECT_EQ(memory_limit(0, system, process).source, "available");
  system.group_limit = 2000;
  system.group_left = 1000;
  EXPECT_EQ(memory_limit(0, system, process).bytes, uint64_t{1200});
  EXPECT_EQ(memory_limit(0, system, process).source, "cgroup");
  EXPECT_EQ(memory_limit(9000, system, process).bytes, uint64_t{9000});
  EXPECT_EQ(memory_limit(9000, system, process).source, "budget");
}

TEST(this_machine_says_what_it_has) {
  const SystemMemory system = system_memory();
  EXPECT(system.physical > 0);
  EXPECT(system.available > 0);
  EXPECT(system.available <= system.physical);
  const ProcessMemory process = process_memory();
  EXPECT(process.resident > 0);
  EXPECT(process.peak >= process.resident);
}

}  // namespace
}  // namespace subbit
