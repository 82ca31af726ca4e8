// The kernels for AVX2 with FMA, without dot product instructions.
#include "kernels/integer_ops_avx2.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {

// Measured on a Zen 3: there, few rows of int4 weights profit too.
template <>
struct PrefetchDistance<Avx2Ops> {
  static constexpr int64_t kBytes = 4096;
  static constexpr int kInt4Rows = 2;
  static constexpr int64_t kInt4RowBytes = 1536;
  static constexpr int kInt4RowLocality = 2;
  static constexpr bool kFloats = true;
};

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
