// The instruction sets that there are kernels for, and the choice among them.
#pragma once

#include <array>
#include <string_view>

namespace gpt2fast {

enum class Isa {
  kPortable,
  kNeonDot,
  kNeonI8mm,
  kAvx2,
  kAvxVnni,
  kAvx512Vnni,
  kAvx512Bf16,
  kAmxInt8,
};

// From the plainest to the best.
inline constexpr std::array kAllIsas = {Isa::kPortable, Isa::kNeonDot,    Isa::kNeonI8mm,   Isa::kAvx2,
                                        Isa::kAvxVnni,  Isa::kAvx512Vnni, Isa::kAvx512Bf16, Isa::kAmxInt8};

// The best variant that this binary carries and this processor runs.
// The environment variable GPT2FAST_ISA overrides it with one of isa_name()'s names; throws
// std::invalid_argument for a name that is unknown or that this processor can't run. Read once, at the first
// call.
Isa active_isa();

// Whether this is AMD's Zen 5, or what follows it.
bool is_zen5();

bool isa_is_available(Isa isa);
std::string_view isa_name(Isa isa);

// An instruction set's kernels, see kernel_table.h: of an available one, and of active_isa().
struct KernelTable;
const KernelTable& kernels(Isa isa);
const KernelTable& kernels();

}  // namespace gpt2fast
