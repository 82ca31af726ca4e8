// linear() for ARM64 with the dot product extension.
#include "kernels/integer_ops_neon.h"
#include "kernels/linear_table.h"

namespace gpt2fast {

LinearVariant linear_neon() { return make_linear_variant<NeonOps>(); }

}  // namespace gpt2fast
