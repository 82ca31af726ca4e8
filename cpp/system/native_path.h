// Paths in the form that the system's own calls take.
#pragma once

#include <filesystem>
#include <string>

namespace gpt2fast {

inline std::filesystem::path::string_type native_path(const std::string& utf8) {
  return std::filesystem::path(std::u8string(utf8.begin(), utf8.end())).native();
}

}  // namespace gpt2fast
