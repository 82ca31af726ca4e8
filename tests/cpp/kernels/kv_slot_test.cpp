// Slots against plain arrays: where float32 elements lie, round trips of every format, and copies.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "support/kernel_testing.h"
#include "support/testing.h"

using namespace gpt2fast;
using gpt2fast::testing::count_different;
using gpt2fast::testing::random_normal;

namespace {

using Floats = std::vector<float>;

constexpr CacheFormat kFormats[] = {CacheFormat::kFloat32, CacheFormat::kFloat16, CacheFormat::kInt8};

CacheShape shape_of(CacheFormat format) {
  return {.layers = 2, .heads = 3, .head_dim = 20, .positions = 130, .format = format};
}

// One slot, zero at first.
struct Slot {
  explicit Slot(const CacheShape& cache_shape)
      : shape(cache_shape), bytes(static_cast<size_t>(shape.slot_bytes())) {}

  uint8_t* layer(int64_t index) const { return bytes.data() + index * shape.layer_stride(); }
  void write(int64_t index, const Floats& keys, const Floats& values, int64_t first, int64_t length) const {
    write_slot(shape, keys.data(), values.data(), first, length, layer(index));
  }
  // Keys, then values.
  Floats read(int64_t index, int64_t first, int64_t length) const {
    const auto half = static_cast<size_t>(shape.heads * length * shape.head_dim);
    Floats both(2 * half);
    read_slot(shape, layer(index), first, length, both.data(), both.data() + half);
    return both;
  }

  CacheShape shape;
  testing::AlignedBytes bytes;
};

Floats joined(const Floats& keys, const Floats& values) {
  Floats both = keys;
  both.insert(both.end(), values.begin(), values.end());
  return both;
}

Floats random_half(const CacheShape& shape, int64_t length, uint32_t seed) {
  return random_normal(shape.heads * length * shape.head_dim, 1, seed);
}

}  // namespace

TEST(float32_elements_lie_where_the_shape_says) {
  const Slot slot(shape_of(CacheFormat::kFloat32));
  const CacheShape& shape = slot.shape;
  const Floats keys = random_half(shape, 70, 1), values = random_half(shape, 70, 2);
  slot.write(1, keys, values, 0, 70);
  const auto element = [&](int64_t offset) {
    float value = 0;
    std::memcpy(&value, slot.layer(1) + offset, sizeof value);
    return value;
  };
  const int64_t width = shape.padded_head_dim();
  for (const int64_t head : {0, 2}) {
    for (const int64_t position : {0, 17, 69}) {
      const int64_t block = head * shape.head_stride() + position / kKeyBlock * shape.block_stride();
      const int64_t in_block = position % kKeyBlock;
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const auto plain = static_cast<size_t>((head * 70 + position) * shape.head_dim + d);
        const int64_t key = in_block / 16 * 16 * width + d * 16 + in_block % 16;
        CHECK_EQ(element(block + 4 * key), keys[plain]);
        CHECK_EQ(element(block + shape.block_bytes() + 4 * (in_block * width + d)), values[plain]);
      }
    }
  }
}

TEST(what_is_written_is_read_back) {
  for (const CacheFormat format : kFormats) {
    const Slot slot(shape_of(format));
    const Floats keys = random_half(slot.shape, 100, 3), values = random_half(slot.shape, 100, 4);
    slot.write(0, keys, values, 30, 100);
    const Floats read = slot.read(0, 30, 100), written = joined(keys, values);
    // float16 has 11 bits; int8 rounds to half of a 127th of a head's largest element, a scale of 8 bits.
    const double tolerance = format == CacheFormat::kFloat32   ? 0
                             : format == CacheFormat::kFloat16 ? 2e-3
                                                               : 2e-2;
    for (size_t i = 0; i < read.size(); ++i) CHECK_NEAR(read[i], written[i], tolerance);
    CHECK(slot.read(1, 0, 130) == Floats(static_cast<size_t>(2 * 3 * 130 * 20)));  // the other layer
  }
}

TEST(reading_back_and_writing_again_changes_nothing) {
  for (const CacheFormat format : kFormats) {
    const Slot slot(shape_of(format)), again(shape_of(format));
    slot.write(0, random_half(slot.shape, 130, 5), random_half(slot.shape, 130, 6), 0, 130);
    const Floats read = slot.read(0, 0, 130);
    const auto half = static_cast<std::ptrdiff_t>(read.size() / 2);
    again.write(0, {read.begin(), read.begin() + half}, {read.begin() + half, read.end()}, 0, 130);
    CHECK_EQ(count_different(again.read(0, 0, 130), read), 0);
  }
}

TEST(a_copy_takes_all_layers_and_no_position_more_than_a_part) {
  for (const CacheFormat format : kFormats) {
    for (const int64_t length : {0, 1, 16, 64, 70, 130}) {
      const Slot from(shape_of(format)), to(shape_of(format));
      for (const int64_t layer : {0, 1}) {
        const auto seed = static_cast<uint32_t>(10 * layer);
        from.write(layer, random_half(from.shape, 130, seed + 1), random_half(from.shape, 130, seed + 2), 0,
                   130);
      }
      copy_slot(from.shape, from.bytes.data(), to.bytes.data(), 0, length);
      for (const int64_t layer : {0, 1}) {
        if (length > 0) CHECK_EQ(count_different(to.read(layer, 0, length), from.read(layer, 0, length)), 0);
        const int64_t beyond = (length + 15) / 16 * 16;  // parts of 16 positions are copied whole
        if (beyond < 130) {
          const Floats rest = to.read(layer, beyond, 130 - beyond);
          CHECK(std::ranges::all_of(rest, [](float x) { return x == 0; }));
        }
      }
    }
  }
}

TEST(a_copy_leaves_what_lies_before_the_first_position_but_for_its_part) {
  for (const CacheFormat format : kFormats) {
    const Slot from(shape_of(format));
    for (const int64_t layer : {0, 1}) {
      const auto seed = static_cast<uint32_t>(10 * layer);
      from.write(layer, random_half(from.shape, 130, seed + 1), random_half(from.shape, 130, seed + 2), 0,
                 130);
    }
    for (const int64_t length : {0, 1, 60, 64, 70, 128, 130}) {
      for (const int64_t first : {0, 1, 15, 16, 40, 63, 64, 65, 70, 129, 130}) {
        const Slot to(shape_of(format));
        copy_slot(from.shape, from.bytes.data(), to.bytes.data(), first, length);
        // In the block of the last position parts of 16 are copied, before it whole blocks.
        const int64_t unit = first / kKeyBlock == length / kKeyBlock ? 16 : kKeyBlock;
        const int64_t begin = first < length ? first / unit * unit : 130;
        for (const int64_t layer : {0, 1}) {
          const int64_t before = std::min<int64_t>(begin, 130);
          const Floats left = to.read(layer, 0, before);
          CHECK(std::ranges::all_of(left, [](float x) { return x == 0; }));
          if (first >= length) continue;
          CHECK_EQ(
              count_different(to.read(layer, first, length - first), from.read(layer, first, length - first)),
              0);
        }
      }
    }
  }
}
