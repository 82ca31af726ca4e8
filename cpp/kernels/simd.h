// A vector of 16 floats that gives the same bits in every instruction set: Vec<Portable>, Vec<Avx2>,
// Vec<Avx512>, Vec<Neon>.
//
// A translation unit sees the vectors that its compiler flags allow. Everything here is forced inline, so
// that no out-of-line copy compiled for one instruction set can be linked into the code of another.
//
// Rules that make the bits agree:
// - fma(a, b, c) rounds once; a * b + c rounds twice (the project is compiled without contraction).
// - max(a, b) is a > b ? a : b and min(a, b) is a < b ? a : b: the second operand where either is NaN.
// - reductions add lane i to lane i + 8, then i + 4, i + 2, i + 1.
// - conversions to float16 round to nearest, ties to even; NaNs become quiet and keep their high bits.
// The bits of a NaN that arithmetic produces may differ.
#pragma once

#include "kernels/simd_portable.h"
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/simd_avx2.h"
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "kernels/simd_avx512.h"
#endif
#if defined(__aarch64__)
#include "kernels/simd_neon.h"
#endif
