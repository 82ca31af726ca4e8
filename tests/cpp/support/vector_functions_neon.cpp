// The vector functions of one instruction set.
#include "support/vector_functions_table.h"

namespace gpt2fast::testing {

const VectorFunctions& vector_functions_neon() { return make_vector_functions<Neon>(); }

}  // namespace gpt2fast::testing
