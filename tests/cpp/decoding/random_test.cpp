// The random generator: published vectors, uniformity, and independence of order.
#include "decoding/random.h"

#include "support/testing.h"

using namespace gpt2fast;

namespace {

constexpr uint32_t kAll = 0xffffffff;

}  // namespace

// The known answers that the authors' Random123 library publishes for Philox4x32-10.
TEST(philox_gives_the_published_vectors) {
  CHECK(Philox::block({0, 0, 0, 0}, {0, 0}) ==
        (Philox::Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK(Philox::block({kAll, kAll, kAll, kAll}, {kAll, kAll}) ==
        (Philox::Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK(Philox::block({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        (Philox::Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(draws_are_functions_of_seed_and_step) {
  static_assert(uniform_draw(1, 0) != uniform_draw(1, 1));
  static_assert(uniform_draw(1, 0) != uniform_draw(2, 0));
  static_assert(uniform_draw(uint64_t{1} << 63, 5) != uniform_draw(0, 5), "all bits of the seed count");
  static_assert(uniform_draw(3, uint64_t{1} << 40) != uniform_draw(3, 0), "all bits of the step count");
}

TEST(draws_are_uniform_in_the_half_open_interval) {
  constexpr int kDraws = 100000, kBins = 100;
  int bins[kBins] = {};
  double sum = 0;
  for (int step = 0; step < kDraws; ++step) {
    const double draw = uniform_draw(42, static_cast<uint64_t>(step));
    CHECK(draw >= 0 && draw < 1);
    ++bins[static_cast<int>(draw * kBins)];
    sum += draw;
  }
  CHECK_NEAR(sum / kDraws, 0.5, 0.005);
  double chi_squared = 0;
  for (int count : bins)
    chi_squared += (count - kDraws / kBins) * (count - kDraws / kBins) / double{kDraws / kBins};
  CHECK(chi_squared > 60 && chi_squared < 150);  // 99 degrees of freedom
}
