// The vector functions of one instruction set.
#include "support/vector_functions_table.h"

namespace gpt2fast::testing {

const VectorFunctions& vector_functions_portable() { return make_vector_functions<Portable>(); }

}  // namespace gpt2fast::testing
