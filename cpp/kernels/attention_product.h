// Small matrix products with the sums in registers, over any Vec: attention's scores and weighted sums.
#pragma once

#include "kernels/attention_tile.h"

namespace gpt2fast {

// How many rows and vectors of one product are kept in registers.
template <typename Tag>
struct RegisterTile {
  static constexpr int kRows = 1;
  static constexpr int vectors(int) { return 2; }
};
#if defined(__aarch64__)
template <>
struct RegisterTile<Neon> {
  static constexpr int kRows = 6;
  static constexpr int vectors(int rows) { return rows == 1 ? 4 : rows == 2 ? 3 : rows == 3 ? 2 : 1; }
};
#endif
#if defined(__AVX2__)
template <>
struct RegisterTile<Avx2> {
  static constexpr int kRows = 6;
  static constexpr int vectors(int rows) { return rows == 1 ? 4 : rows == 2 ? 3 : rows == 3 ? 2 : 1; }
};
#endif
#if defined(__AVX512F__)
template <>
struct RegisterTile<Avx512> {
  static constexpr int kRows = 6;
  static constexpr int vectors(int) { return 4; }
};
#endif

template <typename Tag>
GPT2FAST_INLINE Vec<Tag> load_element(const float* p) {
  return Vec<Tag>::load(p);
}
template <typename Tag>
GPT2FAST_INLINE Vec<Tag> load_element(const uint16_t* p) {
  return Vec<Tag>::load_half(p);
}
template <typename Tag>
GPT2FAST_INLINE void store_element(Vec<Tag> v, float* p) {
  v.store(p);
}
template <typename Tag>
GPT2FAST_INLINE void store_element(Vec<Tag> v, uint16_t* p) {
  v.store_half(p);
}

// A matrix [depth, 16 * vectors] whose rows are `step` and whose vectors are `column` elements apart. The
// data that is read after it lies `next` elements further on; 0 if that is not known.
template <typename Element>
struct MatrixView {
  const Element* data;
  int64_t step;
  int64_t column;
  int64_t next;
};

// The rows of y = a b or, accumulating, of y = factors * y + a b. a [rows, depth], y [rows, 16 * vectors].
struct ProductRows {
  const float* a;
  int64_t a_stride;
  int64_t depth;
  const float* factors;  // [rows]
  float* y;
  int64_t y_stride;
};

template <typename Tag, typename Element, bool accumulates, int rows, int vectors>
static inline void multiply_registers(const ProductRows& p, MatrixView<Element> b, int64_t first_vector) {
  using V = Vec<Tag>;
  V sums[rows][vectors];
  float* y = p.y + first_vector * kLanes;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < vectors; ++c) {
      sums[r][c] = V::zero();
      if constexpr (accumulates) {
        sums[r][c] = V::load(y + r * p.y_stride + c * kLanes) * V::set1(p.factors[r]);
      }
    }
  }
  const Element* row = b.data + first_vector * b.column;
  for (int64_t k = 0; k < p.depth; ++k, row += b.step) {
    V values[vectors];
    for (int c = 0; c < vectors; ++c) {
      values[c] = load_element<Tag>(row + c * b.column);
      if constexpr (rows < RegisterTile<Tag>::kRows) prefetch(row + c * b.column + b.next);
    }
    for (int r = 0; r < rows; ++r) {
      const V factor = V::set1(p.a[r * p.a_stride + k]);
      for (int c = 0; c < vectors; ++c) sums[r][c] = fma(factor, values[c], sums[r][c]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < vectors; ++c) sums[r][c].store(y + r * p.y_stride + c * kLanes);
  }
}

// Multiplies the last vectors: fewer than RegisterTile::vectors(rows), so at most `vectors`.
template <typename Tag, typename Element, bool accumulates, int rows, int vectors>
static inline void multiply_last_vectors(const ProductRows& p, MatrixView<Element> b, int64_t first,
                                         int64_t count) {
  if constexpr (vectors > 0) {
    if (count == vectors) {
      multiply_registers<Tag, Element, accumulates, rows, vectors>(p, b, first);
    } else {
      multiply_last_vectors<Tag, Element, accumulates, rows, vectors - 1>(p, b, first, count);
    }
  }
}

// Multiplies `count` rows, at most `rows` at a time.
template <typename Tag, bool accumulates, typename Element, int rows = RegisterTile<Tag>::kRows>
static inline void multiply(int64_t count, const ProductRows& p, MatrixView<Element> b, int64_t vectors) {
  if constexpr (rows > 0) {
    if (count != rows) return multiply<Tag, accumulates, Element, rows - 1>(count, p, b, vectors);
    constexpr int kVectors = RegisterTile<Tag>::vectors(rows);
    int64_t first = 0;
    for (; first + kVectors <= vectors; first += kVectors) {
      multiply_registers<Tag, Element, accumulates, rows, kVectors>(p, b, first);
    }
    multiply_last_vectors<Tag, Element, accumulates, rows, kVectors - 1>(p, b, first, vectors - first);
  }
}

}  // namespace gpt2fast
