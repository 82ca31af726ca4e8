// Sizes of elements and tensors, and tensors over memory that does not fit them.
#include "ort/value.h"

#include <array>
#include <stdexcept>
#include <vector>

#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

using Shape = std::vector<int64_t>;

TEST(elements_have_their_types_bytes) {
  CHECK_EQ(element_bytes(ElementType::kUInt8), size_t{1});
  CHECK_EQ(element_bytes(ElementType::kFloat16), size_t{2});
  CHECK_EQ(element_bytes(ElementType::kFloat32), size_t{4});
  CHECK_EQ(element_bytes(ElementType::kInt32), size_t{4});
  CHECK_EQ(element_bytes(ElementType::kInt64), size_t{8});
  CHECK_THROWS(element_bytes(ElementType::kUndefined), std::invalid_argument);
}

TEST(element_counts_are_products_that_cannot_overflow) {
  CHECK_EQ(element_count(Shape{}), int64_t{1});
  CHECK_EQ(element_count(Shape{3, 5, 7}), int64_t{105});
  CHECK_EQ(element_count(Shape{3, 0, int64_t{1} << 62}), int64_t{0});
  CHECK_EQ(element_count(Shape{1 << 30, 1 << 30}), int64_t{1} << 60);
  CHECK_THROWS(element_count(Shape{2, -1}), ModelError);
  CHECK_THROWS(element_count(Shape{1 << 30, 1 << 30, 2}), ModelError);
}

ORT_TEST(a_tensor_lies_over_the_given_memory) {
  std::vector<int32_t> data = {1, 2, 3, 4, 5, 6};
  const Value value = Value::tensor(data.data(), 24, std::array<int64_t, 2>{2, 3}, ElementType::kInt32);
  const abi::Api& api = ort_api();
  void* memory = nullptr;
  check(api.GetTensorMutableData(const_cast<abi::Value*>(value.get()), &memory));
  CHECK_EQ(memory, static_cast<void*>(data.data()));
  abi::TensorInfo* created = nullptr;
  check(api.GetTensorTypeAndShape(value.get(), &created));
  const Handle<abi::TensorInfo, &abi::Api::ReleaseTensorTypeAndShapeInfo> info(created);
  const TensorInfo description = describe_tensor(created);
  CHECK_EQ(description.type, ElementType::kInt32);
  CHECK(description.shape == (Shape{2, 3}));
  CHECK(description.name.empty());
}

ORT_TEST(a_tensor_needs_exactly_its_bytes) {
  std::vector<float> data(4);
  const auto tensor = [&](size_t bytes, int64_t size) {
    return Value::tensor(data.data(), bytes, std::array<int64_t, 1>{size}, ElementType::kFloat32);
  };
  CHECK(tensor(16, 4).get() != nullptr);
  CHECK(contains(error_of<std::invalid_argument>([&] { tensor(12, 4); }),
                 "a tensor of 16 bytes over a buffer of 12"));
  CHECK_THROWS(tensor(12, -3), ModelError);
}

}  // namespace
}  // namespace gpt2fast::testing
