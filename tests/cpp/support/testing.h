// A minimal test harness: TEST registers a case, the CHECK macros record failures, main() runs every case.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace gpt2fast::testing {

struct Case {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Registrar {
  Registrar(const char* name, std::function<void()> body) { cases().push_back({name, std::move(body)}); }
};

template <typename T>
std::string show(const T& value) {
  std::ostringstream out;
  if constexpr (std::is_enum_v<T>) {
    out << static_cast<std::underlying_type_t<T>>(value);
  } else {
    out << value;
  }
  return out.str();
}

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::cerr << file << ":" << line << ": " << what << "\n";
}

template <typename A, typename B>
void check_equal(const char* file, int line, const char* text, const A& a, const B& b) {
  if (!(a == b)) fail(file, line, std::string(text) + ": " + show(a) + " != " + show(b));
}

inline void check_near(const char* file, int line, const char* text, double a, double b, double tolerance) {
  if (!(std::abs(a - b) <= tolerance))
    fail(file, line, std::string(text) + ": " + show(a) + " is not near " + show(b));
}

inline int run_all() {
  for (const Case& test : cases()) {
    const int before = failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("threw ") + error.what());
    }
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", test.name);
  }
  std::printf("%zu cases, %d failed checks\n", cases().size(), failures());
  return failures() == 0 ? 0 : 1;
}

}  // namespace gpt2fast::testing

#define TEST(name)                                                                   \
  static void test_##name();                                                         \
  static const ::gpt2fast::testing::Registrar registrar_##name(#name, &test_##name); \
  static void test_##name()
#define CHECK(condition) \
  ((condition) ? (void)0 : ::gpt2fast::testing::fail(__FILE__, __LINE__, "CHECK failed: " #condition))
#define CHECK_EQ(a, b) ::gpt2fast::testing::check_equal(__FILE__, __LINE__, #a " == " #b, (a), (b))
#define CHECK_NEAR(a, b, tolerance) \
  ::gpt2fast::testing::check_near(__FILE__, __LINE__, #a " ~ " #b, (a), (b), (tolerance))
#define CHECK_THROWS(expression, Type)                                                    \
  do {                                                                                    \
    bool caught_as_expected = false;                                                      \
    try {                                                                                 \
      (void)(expression);                                                                 \
    } catch (const Type&) {                                                               \
      caught_as_expected = true;                                                          \
    }                                                                                     \
    if (!caught_as_expected) {                                                            \
      ::gpt2fast::testing::fail(__FILE__, __LINE__, #expression " did not throw " #Type); \
    }                                                                                     \
  } while (false)

int main() { return ::gpt2fast::testing::run_all(); }
