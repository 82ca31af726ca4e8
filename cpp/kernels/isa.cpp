// Which instruction sets this binary carries and this processor runs.
#include "kernels/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(GPT2FAST_HAVE_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gpt2fast {
namespace {

#if defined(__x86_64__)
struct CpuId {
  unsigned eax, ebx, ecx, edx;
};

CpuId cpuid(unsigned leaf, unsigned subleaf) {
  CpuId result{leaf, 0, subleaf, 0};
  __asm__("cpuid" : "+a"(result.eax), "=b"(result.ebx), "+c"(result.ecx), "=d"(result.edx));
  return result;
}

// One bit for each kind of register whose contents the system keeps when threads change: XCR0.
unsigned kept_registers() {
  constexpr unsigned kReadable = 1u << 27;  // OSXSAVE
  if ((cpuid(1, 0).ecx & kReadable) == 0) return 0;
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
#if defined(__APPLE__)
  low |= 0xe0;  // macOS keeps those of AVX-512 too, and says so only after their first use
#endif
  return low;
}

bool has_all(unsigned found, unsigned wanted) { return (found & wanted) == wanted; }

// The processor is asked itself: __builtin_cpu_supports denies everything where the compiler's runtime
// library is neither gcc's nor LLVM's, as Zig's is.
bool runs_avx2() {
  constexpr unsigned kFma = 1u << 12, kAvx = 1u << 28, kF16c = 1u << 29, kAvx2 = 1u << 5;
  constexpr unsigned kAvxRegisters = 0x6;
  return cpuid(0, 0).eax >= 7 && has_all(cpuid(1, 0).ecx, kFma | kAvx | kF16c) &&
         has_all(cpuid(7, 0).ebx, kAvx2) && has_all(kept_registers(), kAvxRegisters);
}

bool has_avx_vnni() { return cpuid(7, 0).eax >= 1 && (cpuid(7, 1).eax >> 4 & 1) != 0; }

bool has_avx512_bf16() { return cpuid(7, 0).eax >= 1 && (cpuid(7, 1).eax >> 5 & 1) != 0; }

bool runs_avx512_vnni() {
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31, kVnni = 1u << 11;
  constexpr unsigned kAvx512Registers = 0xe6;
  return runs_avx2() && has_all(cpuid(7, 0).ebx, kF | kDq | kBw | kVl) && has_all(cpuid(7, 0).ecx, kVnni) &&
         has_all(kept_registers(), kAvx512Registers);
}
#endif

#if defined(GPT2FAST_HAVE_AMX)
// A process must ask Linux for the tiles' state, 8 KB a thread; it is refused where a thread's signal stack
// is too small for it.
bool is_allowed_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool runs_amx_int8() {
  constexpr unsigned kTiles = 1u << 24, kBytes = 1u << 25;
  static const bool runs =
      runs_avx512_vnni() && has_all(cpuid(7, 0).edx, kTiles | kBytes) && is_allowed_tiles();
  return runs;
}
#endif

bool runs_neon_dot() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kHardwareDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kHardwareDotProduct) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
  return true;
#else
  return false;
#endif
}

// Products of byte matrices.
bool runs_neon_i8mm() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kByteMatrices = 1ul << 13;  // HWCAP2_I8MM
  return runs_neon_dot() && (getauxval(AT_HWCAP2) & kByteMatrices) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
  int32_t present = 0;
  size_t bytes = sizeof(present);
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &present, &bytes, nullptr, 0) == 0 && present != 0;
#else
  return false;
#endif
}

Isa best_isa() {
  Isa best = Isa::kPortable;
  for (Isa isa : kAllIsas) {
    if (isa_is_available(isa)) best = isa;
  }
  return best;
}

std::string all_names() {
  std::string names;
  for (const Isa isa : kAllIsas) {
    if (isa != kAllIsas.front()) names += isa == kAllIsas.back() ? " or " : ", ";
    names += isa_name(isa);
  }
  return names;
}

Isa chosen_isa() {
  const char* name = std::getenv("GPT2FAST_ISA");
  if (name == nullptr || *name == '\0') return best_isa();
  for (Isa isa : kAllIsas) {
    if (isa_name(isa) != name) continue;
    if (isa_is_available(isa)) return isa;
    throw std::invalid_argument(std::string("GPT2FAST_ISA: this processor or build does not run ") + name +
                                "; the best it runs is " + std::string(isa_name(best_isa())));
  }
  throw std::invalid_argument("GPT2FAST_ISA must be " + all_names() + ", got " + name);
}

}  // namespace

Isa active_isa() {
  static const Isa isa = chosen_isa();
  return isa;
}

bool is_zen5() {
#if defined(__x86_64__)
  constexpr unsigned kAmd = 0x68747541;  // "Auth" of "AuthenticAMD"
  constexpr unsigned kFamily = 0x1a;
  const unsigned signature = cpuid(1, 0).eax;
  return cpuid(0, 0).ebx == kAmd && (signature >> 8 & 0xf) + (signature >> 20 & 0xff) >= kFamily;
#else
  return false;
#endif
}

bool isa_is_available(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kNeonDot:
      return runs_neon_dot();
    case Isa::kNeonI8mm:
      return runs_neon_i8mm();
#if defined(__x86_64__)
    case Isa::kAvx2:
      return runs_avx2();
    case Isa::kAvxVnni:
      return runs_avx2() && has_avx_vnni();
    case Isa::kAvx512Vnni:
      return runs_avx512_vnni();
    case Isa::kAvx512Bf16:
      return runs_avx512_vnni() && has_avx512_bf16();
#endif
#if defined(GPT2FAST_HAVE_AMX)
    case Isa::kAmxInt8:
      return runs_amx_int8();
#endif
    default:
      return false;
  }
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kNeonDot:
      return "neon_dot";
    case Isa::kNeonI8mm:
      return "neon_i8mm";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avx_vnni";
    case Isa::kAvx512Vnni:
      return "avx512_vnni";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmxInt8:
      return "amx_int8";
  }
  return "unknown";
}

}  // namespace gpt2fast
