// Nearly all of the work of the int4 search, for one instruction set: each lane tries one scale for a group.
#pragma once

#include <math.h>

#include "kernels/packing_int4.h"
#include "kernels/simd.h"

namespace gpt2fast {

inline constexpr float kInt4MaxValue = 15.0f;
inline constexpr float kInt4ZeroSteps = 16.0f;

// The scales that are tried for one group, and the result of each.
struct Int4Trials {
  // Scales, at most kLanes; the lanes beyond hold finite numbers that mean nothing.
  int count;
  double scale[kLanes];     // positive
  float from_low[kLanes];   // the zero point that maps the lowest weight to 0
  float from_high[kLanes];  // the zero point that maps the highest weight to 15
  float weight[kLanes];     // makes errors in squared steps comparable among scales

  float x[kInt4GroupRows][kLanes];  // weights in steps of each scale
  float zero[kLanes];               // the best zero point, a multiple of 1 / 16 in [0, 255 / 16]
  float error[kLanes];              // its weighted error; infinity where none is finite
};

// The value in [0, 15] that is nearest to x with a zero point.
template <typename V>
GPT2FAST_INLINE V nearest_int4_value(V x, V zero) {
  const V magic = V::set1(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction bits; |x + zero| < 2^22
  return min(max(((x + zero) + magic) - magic, V::zero()), V::set1(kInt4MaxValue));
}

// So many zero points are improved together, since each has to wait for its own sums.
inline constexpr int kInt4Starts = 3;

// Replaces zero points by the best ones for the values that are nearest to x with them, and returns the
// squared errors of those values, in steps. x [kInt4GroupRows][kLanes] starts at the first of the vector's
// lanes. Every eighth row is summed first.
template <typename V>
GPT2FAST_INLINE void improve_int4_zeros(const float* x, V (&zero)[kInt4Starts], V (&error)[kInt4Starts]) {
  constexpr int64_t kParts = 8;
  V sum[kInt4Starts], square[kInt4Starts];
  for (int start = 0; start < kInt4Starts; ++start) sum[start] = square[start] = V::zero();
  for (int64_t part = 0; part < kParts; ++part) {
    V part_sum[kInt4Starts], part_square[kInt4Starts];
    for (int start = 0; start < kInt4Starts; ++start) part_sum[start] = part_square[start] = V::zero();
    for (int64_t k = part; k < kInt4GroupRows; k += kParts) {
      const V row = V::load(x + k * kLanes);
      for (int start = 0; start < kInt4Starts; ++start) {
        const V shift = nearest_int4_value(row, zero[start]) - row;
        part_sum[start] = part_sum[start] + shift;
        part_square[start] = part_square[start] + shift * shift;
      }
    }
    for (int start = 0; start < kInt4Starts; ++start) {
      sum[start] = sum[start] + part_sum[start];
      square[start] = square[start] + part_square[start];
    }
  }
  for (int start = 0; start < kInt4Starts; ++start) {
    const V rows = V::set1(static_cast<float>(kInt4GroupRows));
    const V steps = round_to_int(sum[start] * V::set1(kInt4ZeroSteps / static_cast<float>(kInt4GroupRows)));
    const V z = min(max(steps, V::zero()), V::set1(255.0f)) * V::set1(1.0f / kInt4ZeroSteps);
    error[start] = square[start] - V::set1(2.0f) * z * sum[start] + rows * z * z;
    zero[start] = z;
  }
}

// Improves each scale's zero point three times from each of three starting points, and keeps the best of all;
// among equals, the first. A vector has kWidth lanes.
template <typename V, int kWidth>
GPT2FAST_INLINE void try_int4_scales(const float* w, Int4Trials& trials) {
  constexpr int kIterations = 3;
  for (int lane = 0; lane < trials.count; lane += kWidth) {
    for (int64_t k = 0; k < kInt4GroupRows; ++k) {
      V::quotients(w[k], trials.scale + lane).store(trials.x[k] + lane);
    }
    const V low = V::load(trials.from_low + lane), width = V::load(trials.from_high + lane) - low;
    const V weight = V::load(trials.weight + lane);
    V zero[kInt4Starts], error[kInt4Starts], best_zero[kInt4Starts], best_error[kInt4Starts];
    for (int start = 0; start < kInt4Starts; ++start) {
      zero[start] = low + width * V::set1(static_cast<float>(start) / (kInt4Starts - 1));
      best_zero[start] = V::zero();
      best_error[start] = V::set1(INFINITY);
    }
    for (int iteration = 0; iteration < kIterations; ++iteration) {
      improve_int4_zeros(trials.x[0] + lane, zero, error);
      for (int start = 0; start < kInt4Starts; ++start) {
        const V weighted = error[start] * weight;
        best_zero[start] = select_less(weighted, best_error[start], zero[start], best_zero[start]);
        best_error[start] = select_less(weighted, best_error[start], weighted, best_error[start]);
      }
    }
    for (int start = 1; start < kInt4Starts; ++start) {
      best_zero[0] = select_less(best_error[start], best_error[0], best_zero[start], best_zero[0]);
      best_error[0] = select_less(best_error[start], best_error[0], best_error[start], best_error[0]);
    }
    best_zero[0].store(trials.zero + lane);
    best_error[0].store(trials.error + lane);
  }
}

}  // namespace gpt2fast
