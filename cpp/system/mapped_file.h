// A file in memory, as it was when it was opened.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace gpt2fast {

// Maps a whole file for reading. Its pages are shared with other processes and read when first touched.
//
// A map shows what becomes of its file, and reading past the end of one that has become shorter raises
// SIGBUS. Where there is such a signal, a handler replaces the lost pages by zeros, so that no signal reaches
// the user, and changed() tells it; signals of other memory go to the handler that was there before.
class MappedFile {
 public:
  MappedFile();
  // Follows no links. Throws ModelError when the file can't be opened or mapped, or is not a regular one.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::byte* data() const;
  size_t bytes() const;

  // Whether the file was shortened or written to since; costs a system call.
  bool changed() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;  // null: nothing is mapped
};

}  // namespace gpt2fast
