// Shared libraries on Windows and elsewhere.
#include "system/shared_library.h"

#include "gpt2fast/errors.h"
#include "system/native_path.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace gpt2fast {

#ifdef _WIN32

SharedLibrary::SharedLibrary(const std::string& path)
    // With this flag, the libraries that it needs are looked up beside it.
    : handle_(LoadLibraryExW(native_path(path).c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH)) {
  if (handle_ == nullptr) {
    throw LibraryError("'" + path + "' cannot be loaded: Windows error " + std::to_string(GetLastError()));
  }
}

SharedLibrary::~SharedLibrary() {
  if (handle_ != nullptr) FreeLibrary(static_cast<HMODULE>(handle_));
}

void* SharedLibrary::symbol(const char* name) const {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(handle_), name));
}

#else

SharedLibrary::SharedLibrary(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr) throw LibraryError("'" + path + "' cannot be loaded: " + dlerror());
}

SharedLibrary::~SharedLibrary() {
  if (handle_ != nullptr) dlclose(handle_);
}

void* SharedLibrary::symbol(const char* name) const { return dlsym(handle_, name); }

#endif

}  // namespace gpt2fast
