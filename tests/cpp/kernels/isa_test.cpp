// The choice of an instruction set.
#include "kernels/isa.h"

#include <cstdlib>
#include <string>

#include "support/testing.h"

using namespace gpt2fast;

TEST(portable_is_always_available) { CHECK(isa_is_available(Isa::kPortable)); }

TEST(the_active_set_is_available_and_obeys_the_environment) {
  CHECK(isa_is_available(active_isa()));
  const char* wanted = std::getenv("GPT2FAST_ISA");
  if (wanted != nullptr && *wanted != '\0')
    CHECK_EQ(std::string(isa_name(active_isa())), std::string(wanted));
}

TEST(names_are_those_of_the_environment_variable) {
  CHECK_EQ(isa_name(Isa::kPortable), "portable");
  CHECK_EQ(isa_name(Isa::kNeonDot), "neon_dot");
  CHECK_EQ(isa_name(Isa::kNeonI8mm), "neon_i8mm");
  CHECK_EQ(isa_name(Isa::kAvx2), "avx2");
  CHECK_EQ(isa_name(Isa::kAvxVnni), "avx_vnni");
  CHECK_EQ(isa_name(Isa::kAvx512Vnni), "avx512_vnni");
  CHECK_EQ(isa_name(Isa::kAvx512Bf16), "avx512_bf16");
  CHECK_EQ(isa_name(Isa::kAmxInt8), "amx_int8");
}

TEST(sets_of_another_architecture_are_not_available) {
#if defined(__x86_64__)
  CHECK(!isa_is_available(Isa::kNeonDot));
  CHECK(!isa_is_available(Isa::kNeonI8mm));
#else
  CHECK(!isa_is_available(Isa::kAvx2));
  CHECK(!isa_is_available(Isa::kAvxVnni));
  CHECK(!isa_is_available(Isa::kAvx512Vnni));
  CHECK(!isa_is_available(Isa::kAvx512Bf16));
  CHECK(!isa_is_available(Isa::kAmxInt8));
#endif
}

TEST(wider_sets_imply_avx2) {
  for (Isa isa : {Isa::kAvxVnni, Isa::kAvx512Vnni}) {
    if (isa_is_available(isa)) CHECK(isa_is_available(Isa::kAvx2));
  }
  for (Isa isa : {Isa::kAvx512Bf16, Isa::kAmxInt8}) {
    if (isa_is_available(isa)) CHECK(isa_is_available(Isa::kAvx512Vnni));
  }
}
