// linear(): prepares the rows, cuts the work into tasks and hands them to the instruction set's kernels.
#include "kernels/linear.h"

#include <algorithm>
#include <cstdint>

#include "kernels/kernel_table.h"
#include "kernels/output_sums.h"
#include "kernels/packing.h"
#include "kernels/shards.h"

namespace gpt2fast {
namespace {

static_assert(kMixedRows == kInt8RowBlocks * kBlockRows);  // values that are mixed share a scale

constexpr int64_t kMaxRowTasks = 16;  // each has scratch memory in the workspace
// Up to these sizes, one thread prepares rows or multiplies faster than several.
constexpr int64_t kSerialRowElements = int64_t{1} << 13;
constexpr int64_t kSerialProducts = int64_t{1} << 16;
// Each further thread costs the others about as much as so many weights take that it could read.
constexpr int64_t kWeightsPerThread = int64_t{1} << 15;
constexpr int64_t kRowsPerReading = 8;  // up to so many, reading the weights takes longer than multiplying
// From here on, several parts a thread even out delays.
constexpr int64_t kLargeProducts = int64_t{1} << 25;
constexpr int64_t kTasksPerThread = 4;

bool is_quantized(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

// The bytes of a prepared row, see LinearTask.
int64_t prepared_row_bytes(const LinearKernel& kernel, WeightFormat format, int64_t in_features) {
  if (!is_quantized(format)) return divide_up(in_features, 2) * 2 * kernel.scaled_bytes;
  const int64_t blocks = format == WeightFormat::kInt8 ? kInt8RowBlocks : 1;
  return divide_up(in_features, blocks * kBlockRows) * kernel.scaled_bytes;
}

size_t prepared_bytes(int64_t rows, int64_t row_bytes) {
  return static_cast<size_t>(divide_up(rows * row_bytes, 64) * 64);
}

// The scratch memory of preparing rows, see scratch_row_floats().
int64_t scratch_bytes(WeightFormat format, int64_t in_features) {
  const int64_t rounded_row_bytes =
      is_quantized(format) ? divide_up(in_features, kBlockRows) * kBlockRows : 0;
  return scratch_row_floats(in_features) * static_cast<int64_t>(sizeof(float)) +
         kMaxTileRows * rounded_row_bytes;
}

// Rows in groups of equally many tiles, each in its own part of the workspace: a group a thread, or one
// group.
struct RowGroups {
  int64_t count;
  int64_t tiles;  // in each group

  bool owned() const { return count > 1; }
};

const LinearKernel& kernel_of(const KernelTable& table, WeightFormat format) {
  return table.linear[static_cast<size_t>(format)];
}

int64_t group_count(const LinearKernel& kernel, int64_t rows, int64_t threads) {
  return rows >= kernel.own_rows * threads ? threads : 1;
}

RowGroups make_groups(int64_t rows, int64_t max_tile_rows, int64_t count) {
  return {count, divide_up(divide_up(rows, max_tile_rows), count)};
}

// The tasks that a call is cut into: first all rows are prepared, then their products are computed.
struct Tasks {
  int64_t rows;    // tasks that prepare a group's rows; 0: the rows are ready
  int64_t tiles;   // parts that the tiles are cut into for the products; with owned groups, the groups
  int64_t panels;  // parts that the panels are cut into, for each part of the tiles
};

// The number of threads that the products are worth.
int64_t threads_worth(const LinearTask& task, int64_t threads) {
  const LinearArguments& a = task.arguments;
  const int64_t weights = a.in_features * task.panels * kPanelColumns;
  if (a.rows * weights <= kSerialProducts) return 1;
  const int64_t read = weights * divide_up(a.rows, kRowsPerReading);
  return std::min(threads, std::max<int64_t>(2, divide_up(read, kWeightsPerThread)));
}

// Panels that one task takes together: where maxima are reported or outputs summed up, a group of columns.
int64_t panels_together(const LinearArguments& arguments) {
  static_assert(kMaximaColumns == kVocabularyBlock);
  const bool grouped = arguments.maxima != nullptr || arguments.output_sums.columns != nullptr;
  return grouped ? kMaximaColumns / kPanelColumns : 1;
}

Tasks cut(const LinearTask& task, const RowGroups& groups, bool ready, int64_t threads) {
  const LinearArguments& a = task.arguments;
  Tasks tasks = {};
  // Rows of a tile share cache lines, so one thread prepares them all.
  tasks.rows = a.rows * a.in_features <= kSerialRowElements ? 1 : std::min(groups.tiles, kMaxRowTasks);
  if (ready) tasks.rows = 0;
  const int64_t products = a.rows * a.in_features * task.panels * kPanelColumns;
  int64_t wanted = threads_worth(task, threads);
  if (wanted > 1 && products >= kLargeProducts) wanted *= kTasksPerThread;
  const int64_t column_groups = divide_up(task.panels, panels_together(a));
  if (groups.owned()) {
    tasks.tiles = groups.count;
    tasks.panels = std::min(divide_up(wanted, groups.count), column_groups);
  } else {
    tasks.panels = std::min(wanted, column_groups);
    tasks.tiles = std::min(divide_up(wanted, tasks.panels), task.tiles.count);
  }
  return tasks;
}

// The panels of one of `parts` tasks.
Range panel_range(const LinearTask& task, int64_t index, int64_t parts) {
  const int64_t together = panels_together(task.arguments);
  const Range groups = part(divide_up(task.panels, together), index, parts);
  return {groups.begin * together, std::min(groups.end * together, task.panels)};
}

}  // namespace

WorkspaceSize linear_workspace(WeightFormat format, int64_t rows, int64_t in_features, int64_t threads,
                               const KernelTable& table) {
  const LinearKernel& kernel = kernel_of(table, format);
  const int64_t groups = group_count(kernel, rows, threads);
  const int64_t group_rows = divide_up(rows, groups);
  return {groups,
          prepared_bytes(group_rows, prepared_row_bytes(kernel, format, in_features)) +
              static_cast<size_t>(std::min(group_rows, kMaxRowTasks) * scratch_bytes(format, in_features))};
}

void linear(const LinearArguments& arguments, const Parallel& parallel, const WorkspaceParts& workspace,
            const KernelTable& table) {
  const LinearArguments& a = arguments;
  if (a.rows == 0) return;
  const LinearKernel& kernel = kernel_of(table, a.format);
  const RowGroups groups =
      make_groups(a.rows, kernel.max_tile_rows, group_count(kernel, a.rows, parallel.threads()));
  const bool ready = a.rows == 1 && a.gamma == nullptr && a.format == WeightFormat::kFloat32;
  LinearTask task = {};
  task.arguments = a;
  task.panels = divide_up(a.out_features, kPanelColumns);
  task.panel_bytes = static_cast<int64_t>(packed_panel_bytes(a.format, a.in_features));
  task.row_bytes = prepared_row_bytes(kernel, a.format, a.in_features);
  task.ahead = kernel.ahead;
  task.tiles = {a.rows, groups.count * groups.tiles};
  const auto group_task = [&](int64_t group) {
    LinearTask own = task;
    own.first_row = task.tiles.begin(group * groups.tiles);
    own.rows = ready ? reinterpret_cast<const uint8_t*>(a.x) : workspace.part(group);
    return own;
  };

  const Tasks tasks = cut(task, groups, ready, parallel.threads());
  const size_t scratch_begin = prepared_bytes(divide_up(a.rows, groups.count), task.row_bytes);
  run_phases(
      groups.count * tasks.rows, tasks.tiles * tasks.panels, parallel,
      [&](int64_t index) noexcept {
        const int64_t group = index / tasks.rows, own = index % tasks.rows;
        const Range tiles = part(groups.tiles, own, tasks.rows);
        const Range rows = {task.tiles.begin(group * groups.tiles + tiles.begin),
                            task.tiles.begin(group * groups.tiles + tiles.end)};
        uint8_t* prepared = workspace.part(group);
        void* scratch = prepared + scratch_begin + own * scratch_bytes(a.format, a.in_features);
        kernel.prepare_rows(group_task(group), rows, static_cast<float*>(scratch), prepared);
      },
      [&](int64_t index) noexcept {
        const int64_t tile_part = index / tasks.panels;
        const LinearTask own = group_task(groups.owned() ? tile_part : 0);
        const Range tiles = part(task.tiles.count, tile_part, tasks.tiles);
        const Range panels = panel_range(task, index % tasks.panels, tasks.panels);
        if (a.output_sums.columns != nullptr) {
          sum_outputs(own, tiles, panels, kernel, table.vocabulary);
        } else {
          kernel.multiply(own, tiles, panels);
        }
      });
}

}  // namespace gpt2fast
