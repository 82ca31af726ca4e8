// y = activation(layer_norm(x) W + bias) + residual, over weights packed for streaming.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpt2fast/weights.h"
#include "kernels/isa.h"
#include "kernels/workspace.h"
#include "system/parallel.h"

namespace gpt2fast {

// Model files hold these values: never renumber them.
enum class Activation : int32_t {
  kNone = 0,
  kGeluTanh = 1,
  kGeluErf = 2,
  kRelu = 3,
};

// Every group of so many columns has its largest output reported in so many floats, see
// LinearArguments::maxima.
inline constexpr int64_t kMaximaColumns = 256;
inline constexpr int64_t kMaximaLanes = 16;

// The floats that report a row's largest outputs.
constexpr int64_t maxima_floats(int64_t out_features) {
  return (out_features + kMaximaColumns - 1) / kMaximaColumns * kMaximaLanes;
}

// What a softmax over a row of outputs needs of them.
struct OutputSums {
  const int32_t* columns = nullptr;  // [rows]: of each row the output that is wanted
  float* outputs = nullptr;          // [rows]: these
  // [rows, divide_up(out_features, kVocabularyBlock)]: see VocabularyKernels::exp_sum_block.
  float* maxima = nullptr;
  float* sums = nullptr;
};

struct LinearArguments {
  int64_t rows = 0;
  int64_t in_features = 0;
  int64_t out_features = 0;
  WeightFormat format = WeightFormat::kFloat32;
  Activation activation = Activation::kNone;
  float epsilon = 1e-5f;            // the LayerNorm's
  const float* x = nullptr;         // [rows, in_features]
  const uint8_t* weight = nullptr;  // packed, see packing.h; 64-byte aligned
  const float* bias = nullptr;      // [out_features] or null
  const float* gamma = nullptr;     // [in_features] or null: no LayerNorm in front
  const float* beta = nullptr;      // [in_features], null exactly when gamma is
  const float* residual = nullptr;  // [rows, out_features] or null; may equal y
  float* y = nullptr;               // [rows, out_features]; unused where there are output_sums
  int64_t y_first_row = 0;          // the row with which y and residual begin
  // [rows, maxima_floats(out_features)] or null. For every 256 columns of a row there are 16 floats, the
  // largest of which is the largest of these outputs. A NaN among them says that an output is not finite.
  float* maxima = nullptr;
  // With output_sums.columns, outputs are summed up instead of written; residual and maxima are then null.
  OutputSums output_sums{};
};

// The scratch memory that linear() needs for these sizes.
WorkspaceSize linear_workspace(WeightFormat format, int64_t rows, int64_t in_features, int64_t threads,
                               const KernelTable& table);

// Each output element has the same bits whatever the other rows, `parallel.threads()` and the instruction
// set: sums over in_features run in one fixed order. Integer formats round each row to int8 in blocks along
// in_features, of 128 values for int8 weights and of 64 for int4. A row that holds a NaN or an infinity then
// gives NaN outputs, and no other row does.
void linear(const LinearArguments& arguments, const Parallel& parallel, const WorkspaceParts& workspace,
            const KernelTable& table);

}  // namespace gpt2fast
