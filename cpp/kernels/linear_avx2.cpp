// linear() for AVX2 with FMA, without dot product instructions.
#include "kernels/integer_ops_avx2.h"
#include "kernels/linear_table.h"

namespace gpt2fast {

LinearVariant linear_avx2() { return make_linear_variant<Avx2Ops>(); }

}  // namespace gpt2fast
