// The fastest multiplications that this processor's vector instructions can do, from registers: of bytes and
// of floats.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace peaks {

struct Peak {
  const char* instructions;  // null: not known
  double operations;         // additions and multiplications in an iteration
  void (*run)(int64_t iterations);
};

inline std::atomic<int> sink;

#if defined(__x86_64__)
inline constexpr int kSums = 12;  // enough to hide the latency of one

__attribute__((target("avx512f,avx512vnni"))) inline void bytes_avx512(int64_t iterations) {
  __m512i sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(iterations));
  for (int64_t i = 0; i < iterations; ++i) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, factor, factor);
  }
  for (int i = 1; i < kSums; ++i) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
  sink += _mm512_cvtsi512_si32(sums[0]);
}

// Sums in the registers 0 to 11 whatever a compiler thinks of that: it would store some of them.
#define GPT2FAST_SUMS ".irp sum,0,1,2,3,4,5,6,7,8,9,10,11\n\t"
#define GPT2FAST_VECTORS                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15"

// Signed products without VNNI: magnitudes of one factor, and the other one with their signs.
__attribute__((target("avx2"))) inline void bytes_avx2(int64_t iterations) {
  asm volatile("vzeroall" : : : GPT2FAST_VECTORS);
  for (int64_t i = 0; i < iterations; ++i) {
    asm volatile(GPT2FAST_SUMS
                 "vpxor %%ymm12, %%ymm13, %%ymm14\n\tvpmaddubsw %%ymm14, %%ymm13, %%ymm14\n\t"
                 "vpmaddwd %%ymm15, %%ymm14, %%ymm14\n\tvpaddd %%ymm14, %%ymm\\sum, %%ymm\\sum\n\t.endr"
                 :
                 :
                 : GPT2FAST_VECTORS);
  }
}

__attribute__((target("avx2,avxvnni"))) inline void bytes_avx_vnni(int64_t iterations) {
  asm volatile("vzeroall" : : : GPT2FAST_VECTORS);
  for (int64_t i = 0; i < iterations; ++i) {
    asm volatile(GPT2FAST_SUMS "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm\\sum\n\t.endr"
                 :
                 :
                 : GPT2FAST_VECTORS);
  }
}

__attribute__((target("avx2,fma"))) inline void floats_avx2(int64_t iterations) {
  asm volatile("vzeroall" : : : GPT2FAST_VECTORS);
  for (int64_t i = 0; i < iterations; ++i) {
    asm volatile(GPT2FAST_SUMS "vfmadd231ps %%ymm12, %%ymm13, %%ymm\\sum\n\t.endr" : : : GPT2FAST_VECTORS);
  }
}

__attribute__((target("avx512f"))) inline void floats_avx512(int64_t iterations) {
  asm volatile("vzeroall" : : : GPT2FAST_VECTORS);
  for (int64_t i = 0; i < iterations; ++i) {
    asm volatile(GPT2FAST_SUMS "vfmadd231ps %%zmm12, %%zmm13, %%zmm\\sum\n\t.endr" : : : GPT2FAST_VECTORS);
  }
}
#undef GPT2FAST_SUMS
#undef GPT2FAST_VECTORS

inline Peak of_bytes() {
  if (__builtin_cpu_supports("avx512vnni")) return {"AVX512-VNNI", kSums * 128.0, bytes_avx512};
  if (__builtin_cpu_supports("avx2")) return {"AVX2's byte products", kSums * 64.0, bytes_avx2};
  return {};
}

inline Peak of_floats() {
  if (__builtin_cpu_supports("avx512f")) return {"AVX-512's fma", kSums * 32.0, floats_avx512};
  if (__builtin_cpu_supports("fma")) return {"AVX2's fma", kSums * 16.0, floats_avx2};
  return {};
}

// Of one instruction set's vectors.
inline Peak of_bytes(std::string_view isa) {
  if (isa == "avx_vnni") return {"AVX-VNNI", kSums * 64.0, bytes_avx_vnni};
  if (isa == "avx2") return {"AVX2's byte products", kSums * 64.0, bytes_avx2};
  return of_bytes();
}

inline Peak of_floats(std::string_view isa) {
  if (isa == "avx_vnni" || isa == "avx2") return {"AVX2's fma", kSums * 16.0, floats_avx2};
  return of_floats();
}
#else
inline Peak of_bytes() { return {}; }
inline Peak of_floats() { return {}; }
inline Peak of_bytes(std::string_view) { return {}; }
inline Peak of_floats(std::string_view) { return {}; }
#endif

}  // namespace peaks
