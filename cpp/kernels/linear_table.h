// Fills one instruction set's table from the templates.
#pragma once

#include "kernels/linear_float_kernel.h"
#include "kernels/linear_quantized_kernel.h"

namespace gpt2fast {

template <typename Ops, typename Tile>
GPT2FAST_INLINE void add_format(WeightFormat format, LinearVariant& variant) {
  const bool quantized = format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
  variant.prepare_rows[static_cast<int>(format)] = quantized ? quantize_rows<Ops> : interleave_rows<Ops>;
  variant.multiply[static_cast<int>(format)] = multiply<Tile>;
  variant.max_tile_rows[static_cast<int>(format)] = Tile::kMaxRows;
  variant.own_rows[static_cast<int>(format)] = 16;
}

template <typename Ops>
GPT2FAST_INLINE LinearVariant make_linear_variant() {
  LinearVariant variant = {};
  add_format<Ops, FloatTile<Ops, Float32Weights<Ops>>>(WeightFormat::kFloat32, variant);
  add_format<Ops, FloatTile<Ops, BFloat16Weights<Ops>>>(WeightFormat::kBFloat16, variant);
  add_format<Ops, Int8Tile<Ops>>(WeightFormat::kInt8, variant);
  add_format<Ops, Int4Tile<Ops>>(WeightFormat::kInt4, variant);
  return variant;
}

}  // namespace gpt2fast
