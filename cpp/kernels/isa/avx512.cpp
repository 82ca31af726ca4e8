// The kernels for AVX-512 with VNNI.
#include "kernels/integer_ops_avx512.h"
#include "kernels/isa/make_table.h"

namespace gpt2fast {

namespace {

// A Zen 5's cores have more requests under way, and compute for less long, than a Zen 4's.
void prefetch_farther(KernelTable& table) {
  constexpr int64_t kBytes = 8192;
  table.linear[static_cast<size_t>(WeightFormat::kInt8)].ahead = {kBytes, kBytes};
  table.linear[static_cast<size_t>(WeightFormat::kInt4)].ahead.one_row = kBytes;
}

}  // namespace

const KernelTable& kernels_avx512() {
  static const KernelTable kTable = [] {
    KernelTable table = {};
    set_linear_floats<Avx512Ops>(table);
    set_linear_integers<Avx512Ops>(table);
    if (is_zen5()) prefetch_farther(table);
    set_attention_floats<Avx512>(table);
    set_attention_integers<Avx512Ops>(table);
    set_layer_norm<Avx512>(table);
    set_int4_search<Avx512>(table);
    table.vocabulary = Vocabulary<Avx512>::table();
    return table;
  }();
  return kTable;
}

}  // namespace gpt2fast
