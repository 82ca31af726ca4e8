// linear() for AVX-512 with VNNI.
#include "kernels/integer_ops_avx512.h"
#include "kernels/linear_table.h"

namespace gpt2fast {

LinearVariant linear_avx512() { return make_linear_variant<Avx512Ops>(); }

}  // namespace gpt2fast
