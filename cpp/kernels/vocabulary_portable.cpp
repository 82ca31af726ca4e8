// The vocabulary passes in plain C++, and the choice among the instruction sets.
#include "kernels/vocabulary_kernel.h"

namespace gpt2fast {

#if defined(GPT2FAST_HAVE_AVX2)
const VocabularyKernels& vocabulary_kernels_avx2();
#endif
#if defined(GPT2FAST_HAVE_AVX512)
const VocabularyKernels& vocabulary_kernels_avx512();
#endif

const VocabularyKernels& vocabulary_kernels(Isa isa) {
#if defined(GPT2FAST_HAVE_AVX512)
  if (isa == Isa::kAvx512Vnni || isa == Isa::kAmxInt8) return vocabulary_kernels_avx512();
#endif
#if defined(GPT2FAST_HAVE_AVX2)
  if (isa == Isa::kAvx2 || isa == Isa::kAvxVnni) return vocabulary_kernels_avx2();
#endif
  (void)isa;
  static constexpr VocabularyKernels kKernels = Vocabulary<Portable>::table();
  return kKernels;
}

}  // namespace gpt2fast
