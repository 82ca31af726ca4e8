// linear(): prepares the rows, cuts the work into tasks and hands them to the instruction set's kernels.
#include "kernels/linear.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

#include "kernels/linear_variants.h"
#include "kernels/packing.h"

namespace gpt2fast {
namespace {

constexpr int64_t kMaxRowTasks = 64;  // each has a row of scratch in the workspace
// Up to here, preparing rows costs less than sharing it out, and so do products.
constexpr int64_t kSerialRowElements = int64_t{1} << 13;
constexpr int64_t kSerialProducts = int64_t{1} << 16;
// From here on, smaller parts than one a thread even out delays.
constexpr int64_t kLargeProducts = int64_t{1} << 25;
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

// Rows of a tile share cache lines, so that one thread prepares them all.
int64_t row_tasks(const LinearTask& task) {
  if (task.arguments.rows * task.arguments.in_features <= kSerialRowElements) return 1;
  return std::min(task.tiles.count, kMaxRowTasks);
}

Range row_part(const RowTiles& tiles, int64_t index, int64_t parts) {
  const Range range = part(tiles.count, index, parts);
  return {tiles.begin(range.begin), tiles.begin(range.end)};
}

// The parts that a call's work is cut into: first all rows are prepared, then their products are computed.
struct Parts {
  int64_t rows;    // 0: the rows are ready
  int64_t panels;  // of the product, for each part of the tiles
  int64_t tiles;

  int64_t products() const { return panels * tiles; }
};

Parts split(const LinearTask& task, bool ready, const Parallel& parallel) {
  const LinearArguments& a = task.arguments;
  const int64_t products = a.rows * a.in_features * task.panels * kPanelColumns;
  int64_t tasks = products <= kSerialProducts ? 1 : parallel.threads();
  if (tasks > 1 && products >= kLargeProducts) tasks *= kTasksPerThread;
  Parts parts = {};
  parts.rows = ready ? 0 : row_tasks(task);
  parts.panels = std::min(tasks, task.panels);
  parts.tiles = std::min(divide_up(tasks, parts.panels), task.tiles.count);
  return parts;
}

// Numbers handed out to threads, each once, in order.
class Counter {
 public:
  int64_t next() { return value_.fetch_add(1, std::memory_order_relaxed); }
  void add_done() { value_.fetch_add(1, std::memory_order_release); }
  void wait_for(int64_t count) const {
    constexpr int kSpins = 10000;  // some tens of microseconds: longer than a thread that runs would need
    for (int spins = 0; value_.load(std::memory_order_acquire) < count; ++spins) {
      if (spins >= kSpins) std::this_thread::yield();
    }
  }

 private:
  alignas(64) std::atomic<int64_t> value_ = 0;
};

// Products in shards, one a thread: each thread goes through its own, whose weights lie together, then helps
// with the others.
class Shards {
 public:
  Shards(int64_t products, int64_t threads) : products_(products), count_(std::min(threads, kMaxShards)) {}

  template <typename Multiply>
  void run(int64_t first, const Multiply& multiply) {
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t shard = (first + i) % count_;
      const Range range = part(products_, shard, count_);
      Counter& taken = taken_[static_cast<size_t>(shard)];
      for (int64_t k = range.begin + taken.next(); k < range.end; k = range.begin + taken.next()) multiply(k);
    }
  }

 private:
  static constexpr int64_t kMaxShards = 16;
  int64_t products_;
  int64_t count_;
  std::array<Counter, kMaxShards> taken_;
};

// Handing work to a pool's threads costs microseconds, so it is done once for both phases: a thread that
// finds no more rows to prepare waits for those that others have begun, then goes on with products.
template <typename Prepare, typename Multiply>
void run_phases(const Parts& parts, const Parallel& parallel, const Prepare& prepare,
                const Multiply& multiply) {
  if (parts.rows <= 1) {
    if (parts.rows == 1) prepare(0);
    parallel.run(parts.products(), multiply);
    return;
  }
  Counter rows, prepared;
  Shards products(parts.products(), parallel.threads());
  parallel.run(parallel.threads(), [&](int64_t thread) noexcept {
    for (int64_t i = rows.next(); i < parts.rows; i = rows.next()) {
      prepare(i);
      prepared.add_done();
    }
    prepared.wait_for(parts.rows);
    products.run(thread, multiply);
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

  const auto format = static_cast<int>(a.format);
  const bool ready = a.rows == 1 && a.gamma == nullptr && !is_quantized(a.format);
  auto* prepared = static_cast<uint8_t*>(workspace);
  auto* scratch = reinterpret_cast<float*>(prepared + prepared_bytes(a.format, a.rows, a.in_features));
  task.rows = ready ? reinterpret_cast<const uint8_t*>(a.x) : prepared;
  const Parts parts = split(task, ready, parallel);
  run_phases(
      parts, parallel,
      [&](int64_t index) noexcept {
        float* own = scratch + index * scratch_stride(a.in_features);
        variant.prepare_rows[format](task, row_part(task.tiles, index, parts.rows), own, prepared);
      },
      [&](int64_t index) noexcept {
        variant.multiply[format](task, part(task.tiles.count, index / parts.panels, parts.tiles),
                                 part(task.panels, index % parts.panels, parts.panels));
      });
}

}  // namespace gpt2fast
