// Room for elements that come later.
#include "engine/room.h"

#include "support/counted_allocations.h"
#include "support/testing.h"

namespace gpt2fast {
namespace {

TEST(elements_for_which_there_is_room_allocate_nothing) {
  std::vector<int> elements = {1, 2, 3};
  make_room_for(elements, 5);
  CHECK(elements == std::vector<int>({1, 2, 3}));
  const int64_t before = allocations();
  for (int i = 0; i < 5; ++i) elements.push_back(i);
  CHECK_EQ(allocations(), before);
}

TEST(room_grows_by_doubling) {
  std::vector<int> elements;
  size_t growths = 0;
  for (int i = 0; i < 1000; ++i) {
    const size_t capacity = elements.capacity();
    make_room_for(elements, 1);
    if (elements.capacity() != capacity) ++growths;
    elements.push_back(i);
  }
  CHECK_EQ(growths, size_t{11});  // 1, 2, 4, ... 1024
}

}  // namespace
}  // namespace gpt2fast
