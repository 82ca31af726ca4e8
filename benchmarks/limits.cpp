// The machine's limits: reading memory once, multiplying bytes with vectors and with AMX, and floats.
//
//   limits THREADS BYTES...     prints "read BYTES MILLISECONDS" lines, "vector_gops NUMBER",
//                               "tile_gops NUMBER" and "float_gops NUMBER"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "peaks.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRepeats = 3;
std::atomic<uint64_t> sink;

// The least time of body(thread) on all threads at once, in seconds.
template <typename Body>
double least_seconds(int threads, const Body& body) {
  double least = 1e300;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = Clock::now();
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(body, i);
    body(0);
    for (std::thread& other : others) other.join();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return least;
}

// Reads whole cache lines. Prefetching those to come into a cache is sometimes faster than leaving that to
// the processor. ahead: bytes, or 0; level: of the cache.
template <size_t ahead, int level>
uint64_t read_lines(const uint64_t* words, size_t count) {
  constexpr size_t kLine = 8;
  uint64_t sums[kLine] = {};
  for (size_t i = 0; i + kLine <= count; i += kLine) {
    if constexpr (ahead > 0) __builtin_prefetch(words + i + ahead / sizeof(uint64_t), 0, 4 - level);
    for (size_t j = 0; j < kLine; ++j) sums[j] ^= words[i + j];
  }
  uint64_t sum = 0;
  for (uint64_t one : sums) sum ^= one;
  return sum;
}

// Passes over the same bytes, as decode steps pass over the weights: what fits the caches stays there.
double read_milliseconds(int threads, size_t bytes) {
  constexpr int kPasses = 5;
  const size_t words = bytes / sizeof(uint64_t) / static_cast<size_t>(threads);
  std::vector<uint64_t> memory(words * static_cast<size_t>(threads), 1);
  const auto passes = [&](auto read) {
    return least_seconds(threads, [&, read](int thread) {
      const uint64_t* part = memory.data() + static_cast<size_t>(thread) * words;
      for (int pass = 0; pass < kPasses; ++pass) sink += read(part, words);
    });
  };
  const double seconds =
      std::min({passes(read_lines<0, 1>), passes(read_lines<1536, 1>), passes(read_lines<4096, 2>)});
  return seconds * 1e3 / kPasses;
}

// 10^9 additions and multiplications per second; 0 where the peak is not known.
double gops(const peaks::Peak& peak, int threads) {
  if (peak.run == nullptr) return 0;
  constexpr int64_t kIterations = 4'000'000;
  const double seconds = least_seconds(threads, [&peak](int) { peak.run(kIterations); });
  return peak.operations * kIterations * threads / seconds / 1e9;
}

#if defined(__x86_64__) && defined(__linux__)
// Linux gives a process the tiles' state on request.
bool has_tiles() {
  constexpr unsigned kByteTiles = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kByteTiles) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Four tiles of sums, two of rows and two of weights, all of 16 lines of 64 bytes.
void multiply_tiles(int64_t iterations) {
  alignas(64) uint8_t configuration[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    configuration[16 + 2 * tile] = 64;
    configuration[48 + tile] = 16;
  }
  static const uint8_t lines[1024] = {};
  asm volatile("ldtilecfg %0" : : "m"(configuration));
  asm volatile(
      "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
      "tileloadd (%0,%1,1), %%tmm4\n\ttileloadd (%0,%1,1), %%tmm5\n\t"
      "tileloadd (%0,%1,1), %%tmm6\n\ttileloadd (%0,%1,1), %%tmm7"
      :
      : "r"(lines), "r"(int64_t{64}), "m"(lines));
  for (int64_t i = 0; i < iterations; ++i) {
    asm volatile(
        "tdpbsud %tmm6, %tmm4, %tmm0\n\ttdpbsud %tmm7, %tmm4, %tmm1\n\t"
        "tdpbsud %tmm6, %tmm5, %tmm2\n\ttdpbsud %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease");
}

double tile_gops(int threads) {
  if (!has_tiles()) return 0;
  constexpr int64_t kIterations = 2'000'000;
  const double seconds = least_seconds(threads, [](int) { multiply_tiles(kIterations); });
  return 4.0 * 2 * 16 * 16 * 64 * kIterations * threads / seconds / 1e9;
}
#else
double tile_gops(int) { return 0; }
#endif

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 0;
  if (threads < 1) {
    std::fprintf(stderr, "usage: limits THREADS BYTES...\n");
    return 2;
  }
  for (int i = 2; i < argc; ++i) {
    const auto bytes = static_cast<size_t>(std::atoll(argv[i]));
    std::printf("read %zu %.4f\n", bytes, read_milliseconds(threads, bytes));
  }
  std::printf("vector_gops %.1f\ntile_gops %.1f\nfloat_gops %.1f\n", gops(peaks::of_bytes(), threads),
              tile_gops(threads), gops(peaks::of_floats(), threads));
}
