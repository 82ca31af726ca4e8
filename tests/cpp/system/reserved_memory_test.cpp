// Reserved memory: zeros that can be written, given back, and moved.
#include "system/reserved_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "support/testing.h"

using namespace gpt2fast;

namespace {

constexpr size_t kBytes = size_t{1} << 20;
constexpr size_t kPage = size_t{1} << 16;  // a multiple of every system's page

bool all_equal(const ReservedMemory& memory, size_t begin, size_t end, uint8_t value) {
  return std::all_of(memory.as<uint8_t>() + begin, memory.as<uint8_t>() + end,
                     [value](uint8_t byte) { return byte == value; });
}

}  // namespace

TEST(memory_is_zero_and_can_be_written) {
  for (const PageSize pages : {PageSize::kUsual, PageSize::kLarge}) {
    const ReservedMemory memory(kBytes, pages);
    CHECK_EQ(memory.bytes(), kBytes);
    CHECK_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 4096, uintptr_t{0});
    CHECK(all_equal(memory, 0, kBytes, 0));
    std::memset(memory.data(), 7, kBytes);
    CHECK(all_equal(memory, 0, kBytes, 7));
  }
}

TEST(far_more_can_be_reserved_than_is_used) {
#ifdef _WIN32
  constexpr size_t kReserved = size_t{1} << 32;
#else
  constexpr size_t kReserved = size_t{1} << 40;
#endif
  const ReservedMemory memory(kReserved);
  memory.as<uint8_t>()[kReserved - 1] = 1;
  CHECK_EQ(memory.as<uint8_t>()[kReserved / 2], 0);
}

TEST(discarded_pages_read_as_zeros_and_their_neighbours_stay) {
  ReservedMemory memory(4 * kPage);
  std::memset(memory.data(), 7, 4 * kPage);
  memory.discard(kPage - 1, 2 * kPage);  // one whole page, and parts of its neighbours
  CHECK(all_equal(memory, 0, kPage - 1, 7));
#ifndef _WIN32
  CHECK(all_equal(memory, kPage, 2 * kPage, 0));
#endif
  CHECK(all_equal(memory, 3 * kPage - 1, 4 * kPage, 7));
  memory.discard(3 * kPage + 1, 100);  // no whole page
  CHECK(all_equal(memory, 3 * kPage, 4 * kPage, 7));
}

TEST(moving_takes_the_memory) {
  ReservedMemory first(kBytes);
  first.as<uint8_t>()[5] = 9;
  void* const data = first.data();
  ReservedMemory second(std::move(first));
  CHECK_EQ(second.data(), data);
  ReservedMemory third;
  CHECK(third.data() == nullptr && third.bytes() == 0);
  third = std::move(second);
  CHECK_EQ(third.as<uint8_t>()[5], 9);
}

TEST(sizes_at_the_ends) {
  const ReservedMemory nothing(0);
  CHECK(nothing.data() == nullptr && nothing.bytes() == 0);
  CHECK_THROWS(ReservedMemory(std::numeric_limits<size_t>::max() / 2), std::bad_alloc);
}
