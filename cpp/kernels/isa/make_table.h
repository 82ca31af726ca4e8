// From the kernels' bodies to one instruction set's table. Included by that set's translation unit alone:
// everything is static or instantiated with its own Ops, so that no copy compiled for one set serves another.
#pragma once

#include "kernels/attention_float_kernel.h"
#include "kernels/attention_int8_kernel.h"
#include "kernels/isa/tables.h"
#include "kernels/layer_norm_kernel.h"
#include "kernels/linear_float_kernel.h"
#include "kernels/linear_quantized_kernel.h"
#include "kernels/packing_int4_kernel.h"
#include "kernels/vocabulary_kernel.h"

namespace gpt2fast {

template <typename Tile>
static LinearKernel linear_kernel(decltype(LinearKernel::prepare_rows) prepare_rows) {
  constexpr int64_t kOwnRows = 16;
  constexpr int64_t kAhead = Tile::Distance::kBytes;
  return {prepare_rows, multiply<Tile>, Tile::kMaxRows, Tile::kScaledBytes, kOwnRows, {kAhead, kAhead}};
}

template <typename Ops>
static void set_linear_floats(KernelTable& table) {
  table.linear[static_cast<size_t>(WeightFormat::kFloat32)] =
      linear_kernel<FloatTile<Ops, Float32Weights<Ops>>>(interleave_rows<Ops>);
  table.linear[static_cast<size_t>(WeightFormat::kBFloat16)] =
      linear_kernel<FloatTile<Ops, BFloat16Weights<Ops>>>(interleave_rows<Ops, true>);
}

template <typename Ops>
static void set_linear_integers(KernelTable& table) {
  table.linear[static_cast<size_t>(WeightFormat::kInt8)] = linear_kernel<Int8Tile<Ops>>(quantize_rows<Ops>);
  table.linear[static_cast<size_t>(WeightFormat::kInt4)] = linear_kernel<Int4Tile<Ops>>(quantize_rows<Ops>);
  table.linear[static_cast<size_t>(WeightFormat::kInt4)].ahead.one_row = PrefetchDistance<Ops>::kInt4RowBytes;
}

template <typename Tag>
static void set_attention_floats(KernelTable& table) {
  table.attention[static_cast<size_t>(CacheFormat::kFloat32)] = float_attention_kernel<Tag, float>();
  table.attention[static_cast<size_t>(CacheFormat::kFloat16)] = float_attention_kernel<Tag, uint16_t>();
}

template <typename Ops>
static void set_attention_integers(KernelTable& table) {
  table.attention[static_cast<size_t>(CacheFormat::kInt8)] = int8_attention_kernel<Ops>();
}

template <typename Tag>
static void set_layer_norm(KernelTable& table) {
  table.layer_norm_row = [](const float* x, int64_t width, const float* gamma, const float* beta,
                            float epsilon,
                            float* y) { layer_norm_row<Tag>(x, width, gamma, beta, epsilon, y); };
}

// With `lanes` of a group's trials in a vector.
template <typename Tag, int lanes = kLanes>
static void set_int4_search(KernelTable& table) {
  table.try_int4_scales = [](const float* w, Int4Trials& trials) {
    try_int4_scales<Vec<Tag>, lanes>(w, trials);
  };
}

}  // namespace gpt2fast
