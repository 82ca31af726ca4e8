// The vocabulary passes with AVX2.
#include "kernels/vocabulary_kernel.h"

namespace gpt2fast {

const VocabularyKernels& vocabulary_kernels_avx2() {
  static constexpr VocabularyKernels kKernels = Vocabulary<Avx2>::table();
  return kKernels;
}

}  // namespace gpt2fast
