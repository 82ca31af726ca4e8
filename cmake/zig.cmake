# Cross compilation with Zig's clang, which brings the C and C++ libraries of all its targets (the Python package
# `ziglang`). GPT2FAST_ZIG_TARGET names the target: x86_64-linux-gnu.2.28 (for glibc 2.28), aarch64-macos,
# x86_64-windows-gnu. With GPT2FAST_ZIG_COMPILE_ONLY nothing is linked, for which Zig would first compile the system's
# C++ library: a minute each.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES GPT2FAST_ZIG GPT2FAST_ZIG_TARGET GPT2FAST_ZIG_COMPILE_ONLY)
find_program(GPT2FAST_ZIG NAMES zig python-zig REQUIRED)
if(NOT GPT2FAST_ZIG_TARGET MATCHES "^(x86_64|aarch64)-(linux|macos|windows)")
  message(FATAL_ERROR "GPT2FAST_ZIG_TARGET must be like x86_64-linux-gnu.2.28, got '${GPT2FAST_ZIG_TARGET}'")
endif()
set(zig_processor ${CMAKE_MATCH_1})
set(name_linux Linux)
set(name_macos Darwin)
set(name_windows Windows)
set(zig_system ${name_${CMAKE_MATCH_2}})
# On Windows, for Windows, nothing is crossed: packages are found, and Python is asked, as ever.
if(NOT (zig_system STREQUAL "Windows" AND CMAKE_HOST_SYSTEM_NAME STREQUAL "Windows"))
  set(CMAKE_SYSTEM_PROCESSOR ${zig_processor})
  set(CMAKE_SYSTEM_NAME ${zig_system})
endif()

set(CMAKE_CXX_COMPILER ${GPT2FAST_ZIG} c++ -target ${GPT2FAST_ZIG_TARGET})
if(GPT2FAST_ZIG_COMPILE_ONLY)
  list(APPEND CMAKE_CXX_COMPILER -c)
endif()
if(NOT zig_system STREQUAL "Linux")
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
endif()
if(zig_system STREQUAL "Darwin")
  # Zig's float.h gives both FLT_MAX and INFINITY only when it comes before math.h, and not in strict mode.
  list(APPEND CMAKE_CXX_COMPILER -include float.h -U__STRICT_ANSI__)
endif()
set(CMAKE_CXX_ARCHIVE_CREATE "\"${GPT2FAST_ZIG}\" ar qc <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "\"${GPT2FAST_ZIG}\" ranlib <TARGET>")
# The host's own tools do not know other processors' files.
set(CMAKE_STRIP "" CACHE FILEPATH "")
set(CMAKE_MODULE_LINKER_FLAGS_INIT -s)
set(GPT2FAST_CCACHE "" CACHE FILEPATH "")  # ccache takes `c++` for a source
