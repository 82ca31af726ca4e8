// The attributes and weights that operators share.
#include "ops/node_attributes.h"

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "support/packed_weight.h"

namespace gpt2fast::testing {
namespace {

class Nothing final : public Kernel {
 public:
  void compute(const NodeContext& node) override { node.output(0, std::array<int64_t, 1>{0}); }
};

// Creates a node with these attributes and an int8 weight of `bytes` bytes. The error, or none.
std::string create(int64_t format, float epsilon, int64_t bytes,
                   const std::function<void(const NodeInfo&)>& inspect) {
  CustomOpDomain domain("gpt2fast");
  domain.add(std::make_unique<CustomOp>("Probe", std::vector<InputSpec>{{ElementType::kUndefined}}, 0,
                                        [&](const NodeInfo& info) {
                                          inspect(info);
                                          return std::make_unique<Nothing>();
                                        }));
  std::vector<uint8_t> weight = packed(WeightFormat::kInt8, 70, 20);
  weight.resize(static_cast<size_t>(bytes));
  const Model model = Model()
                          .weight<uint8_t>("weight", ElementType::kUInt8, {bytes}, weight)
                          .node(Node("Probe", {"weight"}, "y").set("format", format).set("epsilon", epsilon))
                          .output("y", ElementType::kFloat32, {Model::kAny});
  return error_of<ModelError>([&] { Session(in_memory(model), domain); });
}

ORT_TEST(formats_are_those_that_kernels_know) {
  for (const WeightFormat format :
       {WeightFormat::kFloat32, WeightFormat::kBFloat16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    CHECK_EQ(create(static_cast<int64_t>(format), 0, 64,
                    [&](const NodeInfo& info) { CHECK_EQ(weight_format(info), format); }),
             "");
  }
  for (const int64_t format : {-1, 4}) {
    CHECK(contains(create(format, 0, 64, [](const NodeInfo& info) { weight_format(info); }),
                   "format must be in [0, 3], got " + std::to_string(format)));
  }
}

ORT_TEST(epsilon_is_between_0_and_1) {
  for (const float epsilon : {0.0f, 1e-5f, 1.0f}) {
    CHECK_EQ(
        create(0, epsilon, 64, [&](const NodeInfo& info) { CHECK_EQ(layer_norm_epsilon(info), epsilon); }),
        "");
  }
  for (const float epsilon : {-1e-5f, 1.5f}) {
    CHECK(contains(create(0, epsilon, 64, [](const NodeInfo& info) { layer_norm_epsilon(info); }),
                   "epsilon must be in [0, 1], got "));
  }
}

ORT_TEST(a_packed_weight_has_exactly_its_formats_bytes) {
  const auto bytes = static_cast<int64_t>(packed_weight_bytes(WeightFormat::kInt8, 70, 20));
  const auto inspect = [](const NodeInfo& info) {
    const uint8_t* weight = packed_weight(info, 0, "weight", WeightFormat::kInt8, 70, 20);
    CHECK_EQ(reinterpret_cast<uintptr_t>(weight) % kWeightAlignment, uintptr_t{0});
    CHECK(std::equal(weight, weight + 64, packed(WeightFormat::kInt8, 70, 20).begin()));
  };
  CHECK_EQ(create(2, 0, bytes, inspect), "");
  for (const int64_t wrong : {bytes - 64, bytes + 64}) {
    CHECK(contains(create(2, 0, wrong, inspect), "weight must have shape [" + std::to_string(bytes) + "]"));
  }
}

}  // namespace
}  // namespace gpt2fast::testing
