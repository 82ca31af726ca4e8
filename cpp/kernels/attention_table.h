// One instruction set's attention by the format of its cache, filled from the templates.
#pragma once

#include "kernels/attention_float_kernel.h"
#include "kernels/attention_int8_kernel.h"

namespace gpt2fast {

template <typename Ops>
static AttentionKernel make_attention_kernel(CacheFormat format) {
  using Tag = typename Ops::Tag;
  switch (format) {
    case CacheFormat::kFloat32:
      return float_attention_kernel<Tag, float>();
    case CacheFormat::kFloat16:
      return float_attention_kernel<Tag, uint16_t>();
    default:
      return int8_attention_kernel<Ops>();
  }
}

}  // namespace gpt2fast
