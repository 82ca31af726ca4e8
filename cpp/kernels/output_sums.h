// linear() for a softmax: outputs are summed up while the first-level cache holds them.
#pragma once

#include "kernels/linear_task.h"
#include "kernels/vocabulary.h"

namespace gpt2fast {

// Multiplies some tiles of rows by some panels, which begin with a whole block of kVocabularyBlock columns,
// and fills in these blocks of task.arguments.output_sums.
void sum_outputs(const LinearTask& task, Range tiles, Range panels, const LinearKernel& kernel,
                 const VocabularyKernels& vocabulary);

}  // namespace gpt2fast
