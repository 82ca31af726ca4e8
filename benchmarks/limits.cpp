// What this machine can do at most: reading memory once, and multiplying bytes with AVX512-VNNI.
//
//   limits THREADS BYTES...     prints "read BYTES MILLISECONDS" lines and "bytes_gops NUMBER"
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
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

// Reads whole cache lines. Asking for those to come is sometimes faster than leaving that to the processor.
template <bool asks>
uint64_t read_lines(const uint64_t* words, size_t count) {
  constexpr size_t kLine = 8, kAhead = 1536 / sizeof(uint64_t);
  uint64_t sums[kLine] = {};
  for (size_t i = 0; i + kLine <= count; i += kLine) {
    if constexpr (asks) __builtin_prefetch(words + i + kAhead);
    for (size_t j = 0; j < kLine; ++j) sums[j] ^= words[i + j];
  }
  uint64_t sum = 0;
  for (uint64_t one : sums) sum ^= one;
  return sum;
}

// Passes over the same bytes, as decode steps make over the weights: what fits the caches stays there.
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
  const double seconds = std::min(passes(read_lines<false>), passes(read_lines<true>));
  return seconds * 1e3 / kPasses;
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) void multiply_bytes(int64_t iterations) {
  constexpr int kSums = 12;  // enough to hide the latency of one
  __m512i sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(iterations));
  for (int64_t i = 0; i < iterations; ++i) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, factor, factor);
  }
  for (int i = 1; i < kSums; ++i) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, sums[0]);
  sink += lanes[0];
}

// 10^9 additions and multiplications of bytes a second; 0 where there is no such instruction.
double byte_gops(int threads) {
  if (!__builtin_cpu_supports("avx512vnni")) return 0;
  constexpr int64_t kIterations = 4'000'000;
  const double seconds = least_seconds(threads, [](int) { multiply_bytes(kIterations); });
  return 12.0 * 128 * kIterations * threads / seconds / 1e9;
}
#else
double byte_gops(int) { return 0; }
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
  std::printf("bytes_gops %.1f\n", byte_gops(threads));
}
