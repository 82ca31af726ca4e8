// The kernels in plain C++.
#include "kernels/integer_ops_portable.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {

const KernelTable& kernels_portable() {
  static const KernelTable kTable = [] {
    KernelTable table = {};
    set_linear_floats<PortableOps>(table);
    set_linear_integers<PortableOps>(table);
    set_attention_floats<Portable>(table);
    set_attention_integers<PortableOps>(table);
    set_layer_norm<Portable>(table);
    set_int4_search<Scalar, 1>(table);  // compilers make less of vectors in plain C++ than of single lanes
    table.vocabulary = Vocabulary<Portable>::table();
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
