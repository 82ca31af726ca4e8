// linear() for AVX2 with the VNNI dot product in its 256-bit form.
#include "kernels/integer_ops_avx_vnni.h"
#include "kernels/linear_table.h"

namespace gpt2fast {

LinearVariant linear_avx_vnni() { return make_linear_variant<AvxVnniOps>(); }

}  // namespace gpt2fast
