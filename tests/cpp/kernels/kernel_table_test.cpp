// The tables of kernels: complete for every instruction set, one for each, and the active one.
#include "kernels/kernel_table.h"

#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using gpt2fast::testing::available_isas;

TEST(the_active_table_is_the_active_instruction_sets) {
  CHECK_EQ(&kernels(), &kernels(active_isa()));
  CHECK_EQ(&kernels(Isa::kPortable), &kernels(Isa::kPortable));
}

TEST(instruction_sets_have_tables_of_their_own) {
  for (const Isa a : available_isas()) {
    for (const Isa b : available_isas()) CHECK_EQ(&kernels(a) == &kernels(b), a == b);
  }
}

TEST(every_table_is_complete) {
  for (const Isa isa : available_isas()) {
    const KernelTable& table = kernels(isa);
    for (const LinearKernel& kernel : table.linear) {
      CHECK(kernel.prepare_rows != nullptr && kernel.multiply != nullptr);
      CHECK(kernel.max_tile_rows >= 1 && kernel.max_tile_rows <= kMaxTileRows);
      CHECK(kernel.own_rows >= 1);
      CHECK(kernel.ahead.one_row > 0 && kernel.ahead.more_rows > 0);
    }
    for (const AttentionKernel& kernel : table.attention) {
      CHECK(kernel.scratch_bytes != nullptr && kernel.append != nullptr && kernel.attend != nullptr);
      CHECK(kernel.scratch_bytes(2, 64) > kernel.scratch_bytes(1, 64));
    }
    CHECK(table.layer_norm_row != nullptr && table.try_int4_scales != nullptr);
    const VocabularyKernels& passes = table.vocabulary;
    CHECK(passes.find_max != nullptr && passes.column_maxima != nullptr && passes.exp_weights != nullptr);
    CHECK(passes.exp_sum_block != nullptr && passes.add_exp_sums != nullptr);
    CHECK(passes.exp_sum != nullptr && passes.subtract != nullptr && passes.sum_blocks != nullptr);
    CHECK(passes.compact != nullptr && passes.weigh_above != nullptr && passes.weighted_log != nullptr);
    CHECK(passes.negative_distance != nullptr && passes.forbid != nullptr);
  }
}
