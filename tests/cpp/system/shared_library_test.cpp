// Shared libraries that load, and files that don't.
#include "system/shared_library.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gpt2fast/errors.h"
#include "support/testing.h"
#include "system/native_path.h"

using namespace gpt2fast;

namespace {

std::string load_error(const std::string& path) {
  try {
    const SharedLibrary library(path);
  } catch (const LibraryError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

#ifdef __linux__
TEST(symbols_are_found_by_name) {
  const SharedLibrary library("libm.so.6");
  const auto cosine = reinterpret_cast<double (*)(double)>(library.symbol("cos"));
  CHECK(cosine != nullptr);
  CHECK_EQ(cosine(0.0), 1.0);
  CHECK(library.symbol("no_such_function") == nullptr);
}

TEST(a_library_that_is_kept_outlives_its_object) {
  double (*cosine)(double) = nullptr;
  {
    SharedLibrary library("libm.so.6");
    cosine = reinterpret_cast<double (*)(double)>(library.symbol("cos"));
    library.keep();
  }
  CHECK_EQ(cosine(0.0), 1.0);
}
#endif

TEST(a_missing_file_is_named) {
  CHECK(load_error("/nowhere/library.so").find("'/nowhere/library.so' cannot be loaded: ") == 0);
}

TEST(a_file_that_is_no_library_is_named) {
  const std::filesystem::path path = std::filesystem::temp_directory_path() / "gpt2fast_no_library.so";
  std::ofstream(path) << "text";
  CHECK(load_error(path.string()).find(path.string()) != std::string::npos);
  std::filesystem::remove(path);
}

TEST(paths_are_utf8) {
  const std::string utf8 =
      "/b\xc3\xbc"
      "cher/model.onnx";
  CHECK(std::filesystem::path(native_path(utf8)).u8string() == std::u8string(utf8.begin(), utf8.end()));
}
