// Times linear() over weights that don't fit the caches, beside the machine's limits in the same
// run: reading memory, and multiplying bytes where the processor has AVX512-VNNI.
//
//   linear_bench [in_features out_features [repeats]]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kernels/linear.h"
#include "kernels/packing.h"
#include "spinning_threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) int multiply_bytes(int64_t iterations) {
  __m512i sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(iterations));
  for (int64_t i = 0; i < iterations; ++i) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, factor, factor);
  }
  for (int i = 1; i < 12; ++i) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
  alignas(64) int lanes[16];
  _mm512_store_si512(lanes, sums[0]);
  return lanes[0];
}

void probe_dot_products(const Parallel& parallel, int repeats) {
  if (!isa_is_available(Isa::kAvx512Vnni)) return;
  constexpr int64_t kIterations = 200000;
  std::atomic<int> sink = 0;
  const Timing timing = measure(repeats, [&] {
    parallel.run(parallel.threads(), [&](int64_t) noexcept { sink += multiply_bytes(kIterations); });
  });
  const double operations = 12.0 * 128 * kIterations * parallel.threads();
  std::printf("limit: byte dot products  threads %d  best %6.0f  median %6.0f GOP/s\n", parallel.threads(),
              operations / timing.best / 1e9, operations / timing.median / 1e9);
}
#else
void probe_dot_products(const Parallel&, int) {}
#endif

struct Sizes {
  int64_t in_features;
  int64_t out_features;
};

void bench_format(const char* name, WeightFormat format, Sizes sizes, const std::vector<int64_t>& row_counts,
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

  for (const int threads : {1, 2}) {
    const SpinningThreads parallel(threads);
    for (const int64_t rows : row_counts) {
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
      std::printf("%-5s threads %d  rows %4lld  best %9.1f  median %9.1f us  %6.1f GB/s  %7.1f GOP/s\n", name,
                  threads, static_cast<long long>(rows), timing.best * 1e6, timing.median * 1e6,
                  static_cast<double>(bytes) / timing.median / 1e9, operations / timing.median / 1e9);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Sizes sizes{768, 3072};
  if (argc >= 3) sizes = {std::atoll(argv[1]), std::atoll(argv[2])};
  const int repeats = argc >= 4 ? std::atoi(argv[3]) : 15;
  std::printf("[%lld x %lld], %s\n", static_cast<long long>(sizes.in_features),
              static_cast<long long>(sizes.out_features), std::string(isa_name(active_isa())).c_str());
  for (const int threads : {1, 2}) {
    const SpinningThreads parallel(threads);
    probe_bandwidth(parallel, repeats);
    probe_dot_products(parallel, repeats);
  }
  const std::vector<int64_t> row_counts = {1, 2, 4, 8, 16, 32, 128, 512};
  bench_format("int8", WeightFormat::kInt8, sizes, row_counts, repeats);
  bench_format("int4", WeightFormat::kInt4, sizes, row_counts, repeats);
  bench_format("bf16", WeightFormat::kBFloat16, sizes, row_counts, repeats);
  bench_format("fp32", WeightFormat::kFloat32, sizes, row_counts, repeats);
  return 0;
}
