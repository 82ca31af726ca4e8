// The kernels for 64-bit ARM with the dot product extension; passes over the vocabulary are plain C++.
#include "kernels/integer_ops_neon.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {

const KernelTable& kernels_neon() {
  static const KernelTable kTable = [] {
    KernelTable table = kernels_portable();
    set_linear_floats<NeonOps>(table);
    set_linear_integers<NeonOps>(table);
    set_attention_floats<Neon>(table);
    set_attention_integers<NeonOps>(table);
    set_layer_norm<Neon>(table);
    set_int4_search<Neon>(table);
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
