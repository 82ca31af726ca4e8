// linear(): prepares the rows, cuts the work into tasks and hands them to the instruction set's kernels.
#include "kernels/linear.h"

#include <algorithm>
#include <cstdint>

#include "kernels/linear_variants.h"
#include "kernels/packing.h"

namespace gpt2fast {
namespace {

constexpr int64_t kMaxRowTasks = 64;  // each has a row of scratch in the workspace
constexpr int64_t kSerialRowElements = int64_t{1}
                                       << 13;          // below, preparing rows costs less than starting tasks
constexpr int64_t kSerialProducts = int64_t{1} << 16;  // the same for the product
constexpr int64_t kLargeProducts = int64_t{1}
                                   << 25;  // from here on, smaller tasks than threads even out delays
constexpr int64_t kTasksPerThread = 4;

bool is_quantized(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// Of a prepared row, see LinearTask.
int64_t prepared_row_bytes(WeightFormat format, int64_t in_features) {
  if (!is_quantized(format)) return in_features * static_cast<int64_t>(sizeof(float));
  return divide_up(in_features, kBlockRows) *
         (format == WeightFormat::kInt8 ? kInt8RowBlockBytes : kInt4RowBlockBytes);
}

int64_t prepared_bytes(WeightFormat format, int64_t rows, int64_t in_features) {
  return divide_up(rows * prepared_row_bytes(format, in_features), 64) * 64;
}

// Scratch rows start on cache lines.
int64_t scratch_stride(int64_t in_features) { return divide_up(in_features, 16) * 16; }

Range part(int64_t count, int64_t index, int64_t parts) {
  return {count * index / parts, count * (index + 1) / parts};
}

int64_t row_tasks(int64_t rows, int64_t in_features, const Parallel& parallel) {
  if (rows * in_features <= kSerialRowElements) return 1;
  return std::min({rows, int64_t{2} * parallel.threads(), kMaxRowTasks});
}

void prepare_rows(const LinearVariant& variant, const LinearTask& task, uint8_t* prepared, float* scratch,
                  const Parallel& parallel) {
  const LinearArguments& a = task.arguments;
  const auto kernel = variant.prepare_rows[static_cast<int>(a.format)];
  const int64_t tasks = row_tasks(a.rows, a.in_features, parallel);
  parallel.run(tasks, [&](int64_t index) noexcept {
    kernel(task, part(a.rows, index, tasks), scratch + index * scratch_stride(a.in_features), prepared);
  });
}

void multiply(const LinearVariant& variant, const LinearTask& task, const Parallel& parallel) {
  const LinearArguments& a = task.arguments;
  const auto kernel = variant.multiply[static_cast<int>(a.format)];
  const int64_t products = a.rows * a.in_features * task.panels * kPanelColumns;
  int64_t tasks = products <= kSerialProducts ? 1 : parallel.threads();
  if (tasks > 1 && products >= kLargeProducts) tasks *= kTasksPerThread;
  const int64_t panel_parts = std::min(tasks, task.panels);
  const int64_t tile_parts = std::min(divide_up(tasks, panel_parts), task.tiles.count);
  parallel.run(panel_parts * tile_parts, [&](int64_t index) noexcept {
    kernel(task, part(task.tiles.count, index / panel_parts, tile_parts),
           part(task.panels, index % panel_parts, panel_parts));
  });
}

LinearVariant make_variant(Isa isa) {
  switch (isa) {
#if defined(GPT2FAST_HAVE_AVX512)
    case Isa::kAvx512Vnni:
      return linear_avx512();
#endif
#if defined(GPT2FAST_HAVE_AVX_VNNI)
    case Isa::kAvxVnni:
      return linear_avx_vnni();
#endif
#if defined(GPT2FAST_HAVE_AVX2)
    case Isa::kAvx2:
      return linear_avx2();
#endif
#if defined(GPT2FAST_HAVE_NEON)
    case Isa::kNeonDot:
      return linear_neon();
#endif
    default:
      return linear_portable();
  }
}

}  // namespace

size_t linear_workspace_bytes(WeightFormat format, int64_t rows, int64_t in_features) {
  const int64_t scratch = std::min(rows, kMaxRowTasks) * scratch_stride(in_features);
  return static_cast<size_t>(prepared_bytes(format, rows, in_features)) +
         static_cast<size_t>(scratch) * sizeof(float);
}

void linear(const LinearArguments& arguments, const Parallel& parallel, void* workspace, Isa isa) {
  const LinearArguments& a = arguments;
  if (a.rows == 0) return;
  const LinearVariant variant = make_variant(isa);
  LinearTask task = {};
  task.arguments = a;
  task.panels = divide_up(a.out_features, kPanelColumns);
  task.panel_bytes = static_cast<int64_t>(packed_panel_bytes(a.format, a.in_features));
  task.row_bytes = prepared_row_bytes(a.format, a.in_features);
  task.tiles = {a.rows, divide_up(a.rows, variant.max_tile_rows[static_cast<int>(a.format)])};

  const bool ready = a.rows == 1 && a.gamma == nullptr && !is_quantized(a.format);
  auto* prepared = static_cast<uint8_t*>(workspace);
  if (!ready) {
    auto* scratch = reinterpret_cast<float*>(prepared + prepared_bytes(a.format, a.rows, a.in_features));
    prepare_rows(variant, task, prepared, scratch, parallel);
  }
  task.rows = ready ? reinterpret_cast<const uint8_t*>(a.x) : prepared;
  multiply(variant, task, parallel);
}

}  // namespace gpt2fast
