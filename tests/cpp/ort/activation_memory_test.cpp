// Where activations lie.
#include "ort/activation_memory.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

TEST(tensors_of_one_width_take_turns_in_the_same_memory) {
  ActivationMemory memory;
  void* const wide = memory.allocate(3072, 64 * 3072);
  void* const narrow = memory.allocate(768, 64 * 768);
  CHECK(wide != narrow);
  CHECK_EQ(reinterpret_cast<uintptr_t>(wide) % 64, uintptr_t{0});
  ActivationMemory::free(wide);
  // Larger than what it needs, but of another width.
  void* const second = memory.allocate(768, 64 * 768);
  CHECK(second != wide && second != narrow);
  ActivationMemory::free(narrow);
  ActivationMemory::free(second);
  CHECK_EQ(memory.allocate(3072, 3072), wide);
  void* const again = memory.allocate(768, 768);
  CHECK(again == narrow || again == second);
  ActivationMemory::free(wide);
  ActivationMemory::free(again);
}

TEST(blocks_grow_to_the_largest_tensor) {
  ActivationMemory memory;
  ActivationMemory::free(memory.allocate(4, 16));
  void* const large = memory.allocate(4, 1 << 20);
  std::memset(large, 1, 1 << 20);
  ActivationMemory::free(large);
  CHECK_EQ(memory.allocate(4, 16), large);
  ActivationMemory::free(large);
  CHECK_EQ(memory.allocate(4, 1 << 20), large);
  ActivationMemory::free(large);
}

TEST(a_size_beyond_all_memory_gives_null) {
  ActivationMemory memory;
  CHECK(memory.allocate(1, SIZE_MAX) == nullptr);
  ActivationMemory::free(nullptr);
}

// As many rows of its own width as x has, all zero; notes where they lie.
class Zeros final : public Kernel {
 public:
  Zeros(int64_t width, std::vector<const void*>& places) : width_(width), places_(places) {}
  void compute(const NodeContext& node) override {
    const int64_t rows = node.input(0, "x").elements / (width_ == 2 ? 5 : 2);
    auto* y = static_cast<float*>(node.output(0, std::array<int64_t, 2>{rows, width_}));
    std::fill_n(y, rows * width_, 0.0f);
    places_.push_back(y);
  }

 private:
  int64_t width_;
  std::vector<const void*>& places_;
};

ORT_TEST(a_sessions_tensors_stay_in_place_whatever_the_rows) {
  CHECK(Library::instance().has_activation_allocator());
  std::vector<const void*> places;
  CustomOpDomain domain("gpt2fast");
  const auto add_op = [&](const char* name, int64_t width) {
    domain.add(std::make_unique<CustomOp>(
        name, std::vector<InputSpec>(1), 0,
        [&places, width](const NodeInfo&) { return std::make_unique<Zeros>(width, places); }));
  };
  add_op("Wide", 5);
  add_op("Narrow", 2);
  const Model model = Model()
                          .input("x", ElementType::kFloat32, {Model::kAny, 2})
                          .node(Node("Wide", {"x"}, "a", "gpt2fast"))
                          .node(Node("Narrow", {"a"}, "b", "gpt2fast"))
                          .node(Node("Wide", {"b"}, "c", "gpt2fast"))
                          .node(Node("Narrow", {"c"}, "y", "gpt2fast"))
                          .output("y", ElementType::kFloat32, {Model::kAny, 2});
  Session session(in_memory(model), domain);
  Binding binding(session);
  for (const int64_t rows : {1000, 10, 999}) {
    std::vector<float> x(static_cast<size_t>(2 * rows)), y(x.size(), 1.0f);
    const std::vector<int64_t> shape = {rows, 2};
    const auto value = [&](std::vector<float>& data) {
      return Value::tensor(data.data(), data.size() * sizeof(float), shape, ElementType::kFloat32);
    };
    const Value input = value(x), output = value(y);
    binding.bind_input("x", input);
    binding.bind_output("y", output);
    session.run(binding);
    CHECK_EQ(y.back(), 0.0f);
  }
  CHECK_EQ(places.size(), size_t{12});
  for (size_t i = 4; i < places.size(); ++i) {
    if (i % 4 != 3) CHECK_EQ(places[i], places[i % 4]);  // the last is bound
  }
}

}  // namespace
}  // namespace gpt2fast::testing
