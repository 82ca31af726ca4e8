// The vector functions of one instruction set.
#include "support/vector_functions_table.h"

namespace gpt2fast::testing {

const VectorFunctions& vector_functions_avx2() { return make_vector_functions<Avx2>(); }

}  // namespace gpt2fast::testing
