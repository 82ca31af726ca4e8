// The kernels for AVX2 with FMA, without dot product instructions.
#include "kernels/integer_ops_avx2.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {

const KernelTable& kernels_avx2() {
  static const KernelTable kTable = [] {
    KernelTable table = {};
    set_linear_floats<Avx2Ops>(table);
    set_linear_integers<Avx2Ops>(table);
    set_attention_floats<Avx2>(table);
    set_attention_integers<Avx2Ops>(table);
    set_layer_norm<Avx2>(table);
    set_int4_search<Avx2>(table);
    table.vocabulary = Vocabulary<Avx2>::table();
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
