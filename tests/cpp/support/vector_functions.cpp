// The choice among the instruction sets' vector functions.
#include "support/vector_functions.h"

namespace gpt2fast::testing {

const VectorFunctions* vector_functions(Isa isa) {
  if (!isa_is_available(isa)) return nullptr;
  switch (isa) {
    case Isa::kPortable:
      return &vector_functions_portable();
#if defined(GPT2FAST_HAVE_AVX2)
    case Isa::kAvx2:
      return &vector_functions_avx2();
#endif
#if defined(GPT2FAST_HAVE_AVX512)
    case Isa::kAvx512Vnni:
      return &vector_functions_avx512();
#endif
#if defined(GPT2FAST_HAVE_NEON)
    case Isa::kNeonDot:
      return &vector_functions_neon();
#endif
    default:
      return nullptr;
  }
}

}  // namespace gpt2fast::testing
