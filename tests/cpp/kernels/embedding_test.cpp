// Token plus position embedding from a packed table.
#include "kernels/embedding.h"

#include "kernels/packing.h"
#include "support/kernel_testing.h"
#include "support/testing.h"
#include "system/thread_parallel.h"

using namespace gpt2fast;
using namespace gpt2fast::testing;

TEST(rows_are_token_plus_position) {
  constexpr int64_t kVocabulary = 77, kPositions = 40;
  for (int64_t width : {5, 64, 130}) {
    const std::vector<float> tokens_table = random_normal(kVocabulary * width, 0.1f, 1);
    const std::vector<float> positions_table = random_normal(kPositions * width, 0.1f, 2);
    for (WeightFormat format :
         {WeightFormat::kFloat32, WeightFormat::kBFloat16, WeightFormat::kInt8, WeightFormat::kInt4}) {
      const AlignedBytes packed(packed_weight_bytes(format, width, kVocabulary));
      pack_columns(format, tokens_table.data(), 1, width, width, kVocabulary, packed.data(), Serial());
      std::vector<int32_t> tokens, positions;
      for (int32_t t = 0; t < 1000; ++t) {
        tokens.push_back(t * 31 % kVocabulary);
        positions.push_back(t * 7 % kPositions);
      }
      std::vector<float> y(1000 * static_cast<size_t>(width)), column(static_cast<size_t>(width));
      embed(format, packed.data(), positions_table.data(), tokens.data(), positions.data(), 1000, width,
            y.data(), ThreadParallel(3));
      int64_t wrong = 0;
      for (size_t t = 0; t < 1000; ++t) {
        unpack_column(format, packed.data(), width, tokens[t], column.data());
        for (size_t i = 0; i < column.size(); ++i) {
          const float position = positions_table[static_cast<size_t>(positions[t] * width) + i];
          wrong += !same_float(y[t * column.size() + i], column[i] + position);
          if (format == WeightFormat::kFloat32) {
            wrong += column[i] != tokens_table[static_cast<size_t>(tokens[t] * width) + i];
          }
        }
      }
      CHECK_EQ(wrong, 0);
    }
  }
}
