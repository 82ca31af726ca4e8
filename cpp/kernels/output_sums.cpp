// linear() for a softmax: the outputs of some rows and one block of columns at a time.
#include "kernels/output_sums.h"

#include <algorithm>

#include "kernels/packing.h"

namespace gpt2fast {
namespace {

constexpr int64_t kBlockPanels = kVocabularyBlock / kPanelColumns;
// Rows of outputs that are in memory at once: 32 KB, on the stack.
constexpr int64_t kRows = 32;
static_assert(kRows >= kMaxTileRows);

// The same call for the columns of one block, with y to be set.
LinearTask block_of(const LinearTask& task, int64_t panel) {
  const int64_t column = panel * kPanelColumns;
  LinearTask block = task;
  LinearArguments& a = block.arguments;
  a.weight += panel * task.panel_bytes;
  a.out_features = std::min(kVocabularyBlock, a.out_features - column);
  if (a.bias != nullptr) a.bias += column;
  block.panels = divide_up(a.out_features, kPanelColumns);
  return block;
}

// Sums up rows [first, end) of one block, `columns` outputs each.
void sum_block(const LinearArguments& a, int64_t first, int64_t end, int64_t block, const float* outputs,
               int64_t columns, const VocabularyKernels& vocabulary) {
  const OutputSums& sums = a.output_sums;
  const int64_t blocks = divide_up(a.out_features, kVocabularyBlock);
  for (int64_t row = first; row < end; ++row, outputs += columns) {
    const BlockExpSum sum = vocabulary.exp_sum_block(outputs, columns);
    sums.maxima[row * blocks + block] = sum.max;
    sums.sums[row * blocks + block] = sum.sum;
    const int64_t wanted = sums.columns[row] - block * kVocabularyBlock;
    if (wanted >= 0 && wanted < columns) sums.outputs[row] = outputs[wanted];
  }
}

}  // namespace

void sum_outputs(const LinearTask& task, Range tiles, Range panels, const LinearKernel& kernel,
                 const VocabularyKernels& vocabulary) {
  alignas(64) float outputs[kRows * kVocabularyBlock];
  const int64_t together = kRows / task.tiles.max_height();
  for (int64_t panel = panels.begin; panel < panels.end; panel += kBlockPanels) {
    LinearTask block = block_of(task, panel);
    block.arguments.y = outputs;
    for (int64_t tile = tiles.begin; tile < tiles.end; tile += together) {
      const int64_t end = std::min(tile + together, tiles.end);
      block.arguments.y_first_row = task.tiles.begin(tile);
      kernel.multiply(block, {tile, end}, {0, block.panels});
      sum_block(task.arguments, task.tiles.begin(tile), task.tiles.begin(end), panel / kBlockPanels, outputs,
                block.arguments.out_features, vocabulary);
    }
  }
}

}  // namespace gpt2fast
