// The instruction sets that kernels come in, and the choice among them.
#pragma once

#include <array>
#include <string_view>

namespace gpt2fast {

enum class Isa { kPortable, kNeonDot, kAvx2, kAvxVnni, kAvx512Vnni, kAmxInt8 };

// From the plainest to the best.
inline constexpr std::array kAllIsas = {Isa::kPortable, Isa::kNeonDot,    Isa::kAvx2,
                                        Isa::kAvxVnni,  Isa::kAvx512Vnni, Isa::kAmxInt8};

// The best variant that this binary carries and this processor runs.
// The environment variable GPT2FAST_ISA (portable, neon_dot, avx2, avx_vnni, avx512_vnni, amx_int8) overrides
// it; throws std::invalid_argument for a name that is unknown or that this processor can't run. Read once, at
// the first call.
Isa active_isa();

bool isa_is_available(Isa isa);
std::string_view isa_name(Isa isa);

}  // namespace gpt2fast
