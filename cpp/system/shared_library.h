// A shared library.
#pragma once

#include <string>

namespace gpt2fast {

class SharedLibrary {
 public:
  // `path` is UTF-8. Throws LibraryError with the system's reason.
  explicit SharedLibrary(const std::string& path);
  ~SharedLibrary();

  // The address of a symbol; null when there is none of that name.
  void* symbol(const char* name) const;
  // Never unloads the library.
  void keep() { handle_ = nullptr; }

  SharedLibrary(const SharedLibrary&) = delete;
  SharedLibrary& operator=(const SharedLibrary&) = delete;

 private:
  void* handle_;
};

}  // namespace gpt2fast
