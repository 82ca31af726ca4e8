// Fills VectorFunctions for one instruction set; included only by that set's translation unit.
#pragma once

#include "kernels/math.h"
#include "support/vector_functions.h"

namespace gpt2fast::testing {

template <typename Tag>
static void set_arithmetic(VectorFunctions& f) {
  using V = Vec<Tag>;
  f.abs = [](const float* x, float* y) { abs(V::load(x)).store(y); };
  f.sqrt = [](const float* x, float* y) { sqrt(V::load(x)).store(y); };
  f.round_to_int = [](const float* x, float* y) { round_to_int(V::load(x)).store(y); };
  f.add = [](const float* a, const float* b, float* y) { (V::load(a) + V::load(b)).store(y); };
  f.subtract = [](const float* a, const float* b, float* y) { (V::load(a) - V::load(b)).store(y); };
  f.multiply = [](const float* a, const float* b, float* y) { (V::load(a) * V::load(b)).store(y); };
  f.divide = [](const float* a, const float* b, float* y) { (V::load(a) / V::load(b)).store(y); };
  f.max = [](const float* a, const float* b, float* y) { max(V::load(a), V::load(b)).store(y); };
  f.min = [](const float* a, const float* b, float* y) { min(V::load(a), V::load(b)).store(y); };
  f.scale_by_power_of_two = [](const float* x, const float* n, float* y) {
    scale_by_power_of_two(V::load(x), V::load(n)).store(y);
  };
  f.fma = [](const float* a, const float* b, const float* c, float* y) {
    fma(V::load(a), V::load(b), V::load(c)).store(y);
  };
  f.choose_less = [](const float* a, const float* b, const float* c, float* y) {
    select_less(V::load(a), V::load(b), V::load(a), V::load(c)).store(y);
  };
  f.reduce_add = [](const float* x) { return reduce_add(V::load(x)); };
  f.reduce_max = [](const float* x) { return reduce_max(V::load(x)); };
}

template <typename Tag>
static void set_moves(VectorFunctions& f) {
  using V = Vec<Tag>;
  f.load_half = [](const uint16_t* x, float* y) { V::load_half(x).store(y); };
  f.store_half = [](const float* x, uint16_t* y) { V::load(x).store_half(y); };
  f.load_bf16 = [](const uint16_t* x, float* y) { V::load_bf16(x).store(y); };
  f.quotients = [](float x, const double* by, float* y) { V::quotients(x, by).store(y); };
  f.load_partial = [](const float* x, int64_t count, float* y) { V::load_partial(x, count).store(y); };
  f.store_partial = [](const float* x, int64_t count, float* y) { V::load(x).store_partial(y, count); };
  f.select_first = [](int64_t count, const float* x, const float* y, float* selected) {
    select_first(count, V::load(x), V::load(y)).store(selected);
  };
  f.transpose = [](float* square) {
    V rows[kLanes];
    for (int i = 0; i < kLanes; ++i) rows[i] = V::load(square + i * kLanes);
    transpose(rows);
    for (int i = 0; i < kLanes; ++i) rows[i].store(square + i * kLanes);
  };
}

template <typename Tag>
static const VectorFunctions& make_vector_functions() {
  using V = Vec<Tag>;
  static VectorFunctions f;
  set_arithmetic<Tag>(f);
  set_moves<Tag>(f);
  f.exp = [](const float* x, float* y) { exp(V::load(x)).store(y); };
  f.exp2_nonpositive = [](const float* x, float* y) { exp2_nonpositive(V::load(x)).store(y); };
  f.gelu_tanh = [](const float* x, float* y) { gelu_tanh(V::load(x)).store(y); };
  f.gelu_erf = [](const float* x, float* y) { gelu_erf(V::load(x)).store(y); };
  f.relu = [](const float* x, float* y) { relu(V::load(x)).store(y); };
  return f;
}

}  // namespace gpt2fast::testing
