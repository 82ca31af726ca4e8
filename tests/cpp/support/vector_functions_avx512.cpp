// The vector functions of one instruction set.
#include "support/vector_functions_table.h"

namespace gpt2fast::testing {

const VectorFunctions& vector_functions_avx512() { return make_vector_functions<Avx512>(); }

}  // namespace gpt2fast::testing
