// linear() in plain C++.
#include "kernels/integer_ops_portable.h"
#include "kernels/linear_table.h"

namespace gpt2fast {

LinearVariant linear_portable() { return make_linear_variant<PortableOps>(); }

}  // namespace gpt2fast
