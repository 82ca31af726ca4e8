// Times linear() over weights that don't fit the caches, beside the machine's limits in the same
// run: reading memory, and multiplying bytes and floats. Fractions of these peaks are of the best times,
// which other programs on the machine disturb least.
//
//   linear_bench [in_features out_features [repeats [threads]]]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "../peaks.h"
#include "kernels/linear.h"
#include "kernels/packing.h"
#include "system/thread_pool.h"

using namespace gpt2fast;

namespace {

using Clock = std::chrono::steady_clock;

struct Timing {
  double best = 0;  // seconds
  double median = 0;
};

template <typename Body>
Timing measure(int repeats, const Body& body) {
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds.front(), seconds[seconds.size() / 2]};
}

struct Buffer {
  explicit Buffer(size_t size) : data(static_cast<uint8_t*>(::operator new(size, std::align_val_t{4096}))) {
    std::memset(data, 1, size);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete(data, std::align_val_t{4096}); }
  uint8_t* data;
};

void probe_bandwidth(const Parallel& parallel, int repeats) {
  constexpr size_t kBytes = size_t{256} << 20;
  const Buffer buffer(kBytes);
  const int64_t parts = parallel.threads();
  std::vector<uint64_t> sums(static_cast<size_t>(parts));
  const Timing timing = measure(repeats, [&] {
    parallel.run(parts, [&](int64_t part) noexcept {
      const auto* words = reinterpret_cast<const uint64_t*>(buffer.data);
      const size_t count = kBytes / 8 / static_cast<size_t>(parts);
      uint64_t sum = 0;
      for (size_t i = 0; i < count; ++i) sum ^= words[static_cast<size_t>(part) * count + i];
      sums[static_cast<size_t>(part)] += sum;
    });
  });
  std::printf("limit: reading memory     threads %d  best %6.1f  median %6.1f GB/s\n", parallel.threads(),
              static_cast<double>(kBytes) / timing.best / 1e9,
              static_cast<double>(kBytes) / timing.median / 1e9);
}

// Operations a second; 0 where the peak is not known.
double probe_peak(const char* what, const peaks::Peak& peak, const Parallel& parallel, int repeats) {
  if (peak.run == nullptr) return 0;
  constexpr int64_t kIterations = 200000;
  const Timing timing = measure(
      repeats, [&] { parallel.run(parallel.threads(), [&](int64_t) noexcept { peak.run(kIterations); }); });
  const double operations = peak.operations * kIterations * parallel.threads();
  std::printf("limit: products of %-6s threads %d  best %6.0f  median %6.0f GOP/s (%s)\n", what,
              parallel.threads(), operations / timing.best / 1e9, operations / timing.median / 1e9,
              peak.instructions);
  return operations / timing.best;
}

// Of all threads together; 0 where they are not known.
struct Peaks {
  double bytes;
  double floats;
};

struct Sizes {
  int64_t in_features;
  int64_t out_features;
};

void bench_format(const char* name, WeightFormat format, Sizes sizes, const std::vector<Peaks>& peaks,
                  int repeats) {
  const size_t bytes = packed_weight_bytes(format, sizes.in_features, sizes.out_features);
  const size_t copies = std::max<size_t>(12, (size_t{96} << 20) / bytes);
  const Buffer weights(copies * bytes);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  const auto random = [&](int64_t count, float deviation) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = deviation * normal(engine);
    return values;
  };
  const std::vector<float> w = random(sizes.in_features * sizes.out_features, 0.02f);
  pack_columns(format, w.data(), sizes.out_features, 1, sizes.in_features, sizes.out_features, weights.data,
               Serial());
  for (size_t i = 1; i < copies; ++i) std::memcpy(weights.data + i * bytes, weights.data, bytes);

  for (int threads = 1; threads <= static_cast<int>(peaks.size()); ++threads) {
    ThreadPool parallel(threads);
    const StepThreads awake(parallel);
    const Peaks& limits = peaks[static_cast<size_t>(threads - 1)];
    const bool floats = format == WeightFormat::kFloat32 || format == WeightFormat::kBFloat16;
    const double peak = floats ? limits.floats : limits.bytes;
    for (const int64_t rows : {1, 2, 4, 8, 9, 16, 32, 128, 512}) {
      const std::vector<float> x = random(rows * sizes.in_features, 1.0f);
      std::vector<float> y(static_cast<size_t>(rows * sizes.out_features));
      const WorkspaceSize size = linear_workspace(format, rows, sizes.in_features, threads, kernels());
      const Buffer memory(static_cast<size_t>(size.parts) * size.bytes);
      LinearArguments a;
      a.rows = rows;
      a.in_features = sizes.in_features;
      a.out_features = sizes.out_features;
      a.format = format;
      a.x = x.data();
      a.y = y.data();
      size_t next = 0;
      const int calls = rows >= 128 ? repeats : repeats * 10;
      const Timing timing = measure(calls, [&] {
        a.weight = weights.data + next++ % copies * bytes;
        linear(a, parallel, {memory.data, size.bytes}, kernels());
      });
      const double operations = 2.0 * static_cast<double>(rows * sizes.in_features * sizes.out_features);
      std::printf(
          "%-5s threads %d  rows %4lld  best %9.1f  median %9.1f us  %6.1f GB/s  %7.1f GOP/s, best %4.2f of "
          "the "
          "peak\n",
          name, threads, static_cast<long long>(rows), timing.best * 1e6, timing.median * 1e6,
          static_cast<double>(bytes) / timing.median / 1e9, operations / timing.median / 1e9,
          peak > 0 ? operations / timing.best / peak : 0.0);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Sizes sizes{768, 3072};
  if (argc >= 3) sizes = {std::atoll(argv[1]), std::atoll(argv[2])};
  const int repeats = argc >= 4 ? std::atoi(argv[3]) : 15;
  const std::string isa(isa_name(active_isa()));
  std::printf("[%lld x %lld], %s\n", static_cast<long long>(sizes.in_features),
              static_cast<long long>(sizes.out_features), isa.c_str());
  const int most_threads = argc >= 5 ? std::atoi(argv[4]) : 2;
  std::vector<Peaks> peaks;
  for (int threads = 1; threads <= most_threads; ++threads) {
    ThreadPool parallel(threads);
    const StepThreads awake(parallel);
    probe_bandwidth(parallel, repeats);
    peaks.push_back({probe_peak("bytes", peaks::of_bytes(isa), parallel, repeats),
                     probe_peak("floats", peaks::of_floats(isa), parallel, repeats)});
  }
  bench_format("int8", WeightFormat::kInt8, sizes, peaks, repeats);
  bench_format("int4", WeightFormat::kInt4, sizes, peaks, repeats);
  bench_format("bf16", WeightFormat::kBFloat16, sizes, peaks, repeats);
  bench_format("fp32", WeightFormat::kFloat32, sizes, peaks, repeats);
  return 0;
}
