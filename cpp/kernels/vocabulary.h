// Vectorised passes over arrays as long as the vocabulary. Each gives the same bits in every instruction set.
#pragma once

#include <cstdint>

namespace gpt2fast {

// So many floats may be written beyond an output's last element: outputs of compact() need this much room.
inline constexpr int64_t kVocabularyPadding = 16;
// The elements that one of sum_blocks()' or exp_sum_block()'s sums adds up.
inline constexpr int64_t kVocabularyBlock = 256;
// The thresholds of one call of weigh_above().
inline constexpr int kVocabularyThresholds = 7;

struct Extremum {
  float value;      // -infinity if the array is empty or has nothing else
  int64_t index;    // of its first occurrence; 0 where the value is -infinity
  bool is_regular;  // no element is NaN or +infinity; else value and index mean nothing
};

// What a block adds to a sum of exponentials.
struct BlockExpSum {
  float max;  // of the block, or the lowest float if it has nothing above
  float sum;  // of exp(x[i] - max); NaN if an element is NaN or +infinity
};

// Columns that are compacted together; an output that is null is left out.
struct CompactArguments {
  const float* keys = nullptr;  // [count]
  int64_t count = 0;
  float low = 0;  // element i stays when low <= keys[i] < high
  float high = 0;
  const int32_t* ids = nullptr;  // [count], or null: element i has the id i
  int32_t* ids_out = nullptr;
  const float* first = nullptr;  // [count]
  float* first_out = nullptr;
  const float* second = nullptr;  // [count]
  float* second_out = nullptr;
};

struct VocabularyKernels {
  Extremum (*find_max)(const float* x, int64_t count);

  // Divides x into columns of at most column_length elements and writes each column's maximum. Returns the
  // number of columns, at most ceil(count / (16 * column_length)) * 16.
  int64_t (*column_maxima)(const float* x, int64_t count, int64_t column_length, float* maxima);

  // weights[i] = exp((x[i] - max) / temperature)
  void (*exp_weights)(const float* x, int64_t count, float max, float temperature, float* weights);

  // Of at most kVocabularyBlock elements.
  BlockExpSum (*exp_sum_block)(const float* x, int64_t count);

  // The sum of sums[b] * exp(maxima[b] - max): from those of all blocks of an array, exp_sum() of the array.
  double (*add_exp_sums)(const float* maxima, const float* sums, int64_t blocks, float max);

  // The sum of exp(x[i] - max).
  double (*exp_sum)(const float* x, int64_t count, float max);

  // y[i] = x[i] - amount, computed in double and rounded once.
  void (*subtract)(const float* x, int64_t count, double amount, float* y);

  // Writes one sum for every kVocabularyBlock elements, and returns the sum of the sums.
  double (*sum_blocks)(const float* x, int64_t count, float* sums);

  // Copies the elements with low <= key < high in their order, and returns how many there are. An output may
  // be its own input.
  int64_t (*compact)(const CompactArguments& arguments);

  // totals[t] = the sum of weights[i] where keys[i] >= thresholds[t]
  void (*weigh_above)(const float* keys, const float* weights, int64_t count, const float* thresholds,
                      double* totals);

  // The sum of weights[i] * (x[i] - max) / temperature over positive weights.
  double (*weighted_log)(const float* x, const float* weights, int64_t count, float max, float temperature);

  // keys[i] = -|(x[i] - max) / temperature - center|
  void (*negative_distance)(const float* x, int64_t count, float max, float temperature, float center,
                            float* keys);

  // Sets scores[i] to -infinity where bit i % 32 of allowed[i / 32] is 0.
  void (*forbid)(float* scores, int64_t count, const uint32_t* allowed);
};

}  // namespace gpt2fast
