# Cross compilation with Zig's clang, which brings the C and C++ libraries of all its targets (the Python package
# `ziglang`). GPT2FAST_ZIG_TARGET names the target: x86_64-linux-gnu.2.28 (for glibc 2.28), aarch64-macos,
# x86_64-windows-gnu. The objects of other systems are compiled, not linked.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES GPT2FAST_ZIG GPT2FAST_ZIG_TARGET)
find_program(GPT2FAST_ZIG NAMES zig python-zig REQUIRED)
if(NOT GPT2FAST_ZIG_TARGET MATCHES "^(x86_64|aarch64)-(linux|macos|windows)")
  message(FATAL_ERROR "GPT2FAST_ZIG_TARGET must be like x86_64-linux-gnu.2.28, got '${GPT2FAST_ZIG_TARGET}'")
endif()
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
set(name_linux Linux)
set(name_macos Darwin)
set(name_windows Windows)
set(CMAKE_SYSTEM_NAME ${name_${CMAKE_MATCH_2}})

set(CMAKE_CXX_COMPILER ${GPT2FAST_ZIG} c++ -target ${GPT2FAST_ZIG_TARGET})
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  list(APPEND CMAKE_CXX_COMPILER -c)  # to link, Zig would first compile the system's C++ library: a minute each
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
endif()
set(CMAKE_CXX_ARCHIVE_CREATE "\"${GPT2FAST_ZIG}\" ar qc <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "\"${GPT2FAST_ZIG}\" ranlib <TARGET>")
# The host's own tools do not know other processors' files.
set(CMAKE_STRIP "" CACHE FILEPATH "")
set(CMAKE_MODULE_LINKER_FLAGS_INIT -s)
set(GPT2FAST_CCACHE "" CACHE FILEPATH "")  # ccache takes `c++` for a source
