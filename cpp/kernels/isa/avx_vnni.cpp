// The kernels for AVX2 with the VNNI dot product in its 256-bit form: integers multiply by it, the rest is
// AVX2's.
#include "kernels/integer_ops_avx_vnni.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {

const KernelTable& kernels_avx_vnni() {
  static const KernelTable kTable = [] {
    KernelTable table = kernels_avx2();
    set_linear_integers<AvxVnniOps>(table);
    set_attention_integers<AvxVnniOps>(table);
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
