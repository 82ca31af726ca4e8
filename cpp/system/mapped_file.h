// A file in memory, as it was when it was opened.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace gpt2fast {

// Identifies a file and its state: device, inode, size, and seconds and nanoseconds of the last change. Zeros
// where files can't change while they are open.
using FileVersion = std::array<int64_t, 5>;

// Maps a whole file for reading. Its pages are shared with other processes and read when first touched.
//
// A map shows later changes of its file, and reading past the end of a file that has become shorter raises
// SIGBUS. On systems with this signal, a handler replaces the lost pages by zeros, and changed() reports it.
// Signals for other memory go to the handler that was there before.
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

  // The version of the file when it was opened.
  FileVersion version() const;

 private:
  struct State;
  std::unique_ptr<State> state_;  // null: nothing is mapped
};

}  // namespace gpt2fast
