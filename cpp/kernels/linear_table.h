// Fills one instruction set's table from the templates.
#pragma once

#include "kernels/linear_float_kernel.h"
#include "kernels/linear_quantized_kernel.h"

namespace gpt2fast {

template <typename Tile>
GPT2FAST_INLINE void add_format(WeightFormat format, LinearVariant& variant) {
  variant.multiply[static_cast<int>(format)] = multiply<Tile>;
  variant.max_tile_rows[static_cast<int>(format)] = Tile::kMaxRows;
}

template <typename Ops>
GPT2FAST_INLINE LinearVariant make_linear_variant() {
  LinearVariant variant;
  variant.quantize_rows = quantize_rows<Ops>;
  variant.normalize_rows = normalize_rows<Ops>;
  add_format<FloatTile<Ops, Float32Weights<Ops>>>(WeightFormat::kFloat32, variant);
  add_format<FloatTile<Ops, BFloat16Weights<Ops>>>(WeightFormat::kBFloat16, variant);
  add_format<Int8Tile<Ops>>(WeightFormat::kInt8, variant);
  add_format<Int4Tile<Ops>>(WeightFormat::kInt4, variant);
  return variant;
}

}  // namespace gpt2fast
