// A counter-based random generator. The draw at a step is a function of (seed, step) alone, so a sequence
// that is rewound, continued, drafted or batched differently draws the same numbers, on every platform.
#pragma once

#include <array>
#include <cstdint>

namespace gpt2fast {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011).
struct Philox {
  using Block = std::array<uint32_t, 4>;

  static constexpr Block block(Block counter, std::array<uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
      const uint64_t first = uint64_t{0xD2511F53} * counter[0];
      const uint64_t second = uint64_t{0xCD9E8D57} * counter[2];
      counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
                 static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
      key[0] += 0x9E3779B9;
      key[1] += 0xBB67AE85;
    }
    return counter;
  }
};

// A number uniform in [0, 1), a multiple of 2^-53.
constexpr double uniform_draw(uint64_t seed, uint64_t step) {
  const Philox::Block words =
      Philox::block({static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32), 0, 0},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{words[1]} << 32 | words[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace gpt2fast
