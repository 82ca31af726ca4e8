// The vector operations and functions of each instruction set as plain function pointers, for tests.
#pragma once

#include <cstdint>

#include "kernels/isa.h"

namespace gpt2fast::testing {

// All on 16 floats a call.
struct VectorFunctions {
  using Unary = void (*)(const float* x, float* y);
  using Binary = void (*)(const float* a, const float* b, float* y);
  using Ternary = void (*)(const float* a, const float* b, const float* c, float* y);

  Unary exp, exp2_nonpositive, gelu_tanh, gelu_erf, relu;
  Unary abs, sqrt, round_to_int;
  Binary add, subtract, multiply, divide, max, min, scale_by_power_of_two;
  Ternary fma, choose_less;  // choose_less: a < b ? a : c
  void (*load_half)(const uint16_t* x, float* y);
  void (*store_half)(const float* x, uint16_t* y);
  void (*load_bf16)(const uint16_t* x, float* y);
  void (*quotients)(float x, const double* by, float* y);
  void (*load_partial)(const float* x, int64_t count, float* y);
  void (*store_partial)(const float* x, int64_t count, float* y);
  void (*select_first)(int64_t count, const float* x, const float* y, float* selected);
  void (*transpose)(float* square);  // [16, 16]
  float (*reduce_add)(const float* x);
  float (*reduce_max)(const float* x);
};

// Null where there are none or the processor does not run them.
const VectorFunctions* vector_functions(Isa isa);

const VectorFunctions& vector_functions_portable();
const VectorFunctions& vector_functions_avx2();
const VectorFunctions& vector_functions_avx512();
const VectorFunctions& vector_functions_neon();

}  // namespace gpt2fast::testing
