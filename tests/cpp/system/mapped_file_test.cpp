// Maps of files: their content, what is refused, and files that change under a map.
#include "system/mapped_file.h"

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.bytes()};
}

TEST(a_map_holds_the_files_content) {
  const TemporaryFolder folder;
  MappedFile file(folder.write("x", "content"));
  CHECK_EQ(text_of(file), std::string("content"));
  CHECK(!file.changed());
  const MappedFile moved = std::move(file);
  CHECK_EQ(text_of(moved), std::string("content"));
  const MappedFile none;
  CHECK(none.data() == nullptr && none.bytes() == 0 && !none.changed());
}

TEST(what_cannot_be_mapped_is_named) {
  const TemporaryFolder folder;
  const std::string empty = folder.write("empty", "");
  const std::string parent = std::filesystem::path(empty).parent_path().string();
  for (const std::string& path : {empty, parent, parent + "/missing"}) {
    CHECK(contains(error_of<ModelError>([&] { const MappedFile file(path); }), path));
  }
}

#ifndef _WIN32
TEST(a_file_that_becomes_shorter_reads_as_zeros_and_counts_as_changed) {
  const TemporaryFolder folder;
  const std::string path = folder.write("x", std::string(100'000, 'x'));
  const MappedFile file(path), other(folder.write("y", std::string(100'000, 'y')));
  std::filesystem::resize_file(path, 10'000);
  CHECK(file.changed());
  const std::string text = text_of(file);  // without the handler this ends the process
  CHECK_EQ(text[9'999], 'x');
  CHECK_EQ(text[50'000], '\0');
  CHECK(!other.changed());
  CHECK_EQ(text_of(other), std::string(100'000, 'y'));
  folder.write("x", std::string(100'000, 'x'));
  CHECK(file.changed());
}

TEST(a_file_that_is_written_to_counts_as_changed) {
  const TemporaryFolder folder;
  const std::string path = folder.write("x", "content");
  const MappedFile file(path);
  std::filesystem::last_write_time(path, std::filesystem::file_time_type() + std::chrono::hours(1));
  CHECK(file.changed());
}

TEST(a_file_that_is_replaced_or_removed_has_not_changed) {
  const TemporaryFolder folder;
  const std::string path = folder.write("x", "content");
  const MappedFile file(path);
  std::filesystem::rename(folder.write("new", "another"), path);
  CHECK(!file.changed());
  std::filesystem::remove(path);
  CHECK(!file.changed());
  CHECK_EQ(text_of(file), std::string("content"));
}
#endif

#ifdef __linux__
// What the system notes of the map of a file, by abbreviations that end with spaces.
std::string flags_of_map(const std::string& path) {
  std::ifstream maps("/proc/self/smaps");
  bool is_ours = false;
  for (std::string line; std::getline(maps, line);) {
    is_ours = is_ours || line.ends_with(path);
    if (is_ours && line.starts_with("VmFlags:")) return line + " ";
  }
  return "";
}

TEST(a_file_is_read_in_large_pages_where_the_system_has_them) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) return;
  const TemporaryFolder folder;
  const std::string path = folder.write("x", "content");
  const MappedFile file(path);
  CHECK(contains(flags_of_map(path), " hg "));
}
#endif

}  // namespace
}  // namespace gpt2fast::testing
