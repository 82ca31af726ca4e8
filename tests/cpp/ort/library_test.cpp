// Loading ONNX Runtime's library.
#include "ort/library.h"

#include <cstdlib>
#include <string>
#include <string_view>

#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

TEST(nothing_works_before_loading) { CHECK_THROWS(Library::instance(), LibraryError); }

TEST(missing_library_is_named) {
  const std::string message = error_of<LibraryError>([] { Library::load("/nowhere/libonnxruntime.so"); });
  CHECK(contains(message, "/nowhere/libonnxruntime.so"));
}

TEST(file_that_is_no_library_is_refused) {
  const TemporaryFolder folder;
  const std::string path = folder.write("text.so", "not a library");
  CHECK(contains(error_of<LibraryError>([&] { Library::load(path); }), path));
}

#ifdef __linux__
TEST(library_that_is_not_onnx_runtime_is_refused) {
  const std::string message = error_of<LibraryError>([] { Library::load("libm.so.6"); });
  CHECK(contains(message, "OrtGetApiBase"));
}
#endif

ORT_TEST(library_loads_once) {
  const Library& library = Library::load(library_path());
  CHECK_EQ(&library, &Library::instance());
  CHECK_EQ(library.path(), std::string(library_path()));
  CHECK(contains(library.version(), "."));
  CHECK_THROWS(Library::load("/another/libonnxruntime.so"), LibraryError);
  const char* disabled = std::getenv("ORT_DISABLE_TELEMETRY");
  CHECK(disabled != nullptr && std::string_view(disabled) == "1");
}

ORT_TEST(errors_of_the_library_become_model_errors) {
  const abi::Api& api = ort_api();
  check(nullptr);  // no error
  const std::string message =
      error_of<ModelError>([&] { check(api.CreateStatus(abi::kFail, "what went wrong")); });
  CHECK_EQ(message, "what went wrong");
  CHECK_EQ(take_message(api.CreateStatus(abi::kInvalidArgument, "another")), "another");
}

}  // namespace
}  // namespace gpt2fast::testing
