// How rounding errors of a weight's rows are made up for by the rows that follow.
#pragma once

#include "gpt2fast/weights.h"

namespace gpt2fast {

// Rounding a column w to q costs the product (q - w)' M (q - w), M [kFeedbackRows][kFeedbackRows] being the
// second moments of the inputs. With M = U D U', U upper triangular with ones on its diagonal, the cost is
// the sum of d_j (e_j + sum of U_ij e_i over i < j)^2 for e = q - w. So each row is rounded from the weight
// minus what the rows before it add there. This is GPTQ's rounding (Frantar et al. 2022), written as Babai's
// nearest plane.
//
// Writes U above its diagonal, and zeros elsewhere. A hundredth of the moments' mean is added to the
// diagonal, as they are only estimates. It is the same for every instruction set.
void error_feedback(const float* moments, float* feedback);

}  // namespace gpt2fast
