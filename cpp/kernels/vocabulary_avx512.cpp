// The vocabulary passes with AVX-512.
#include "kernels/vocabulary_kernel.h"

namespace gpt2fast {

const VocabularyKernels& vocabulary_kernels_avx512() {
  static constexpr VocabularyKernels kKernels = Vocabulary<Avx512>::table();
  return kKernels;
}

}  // namespace gpt2fast
