// LayerNorm gives what its kernel gives, and refuses vectors that do not match.
#include "ops/layer_norm_op.h"

#include <span>
#include <vector>

#include "kernels/layer_norm.h"
#include "support/ort_testing.h"

namespace gpt2fast::testing {
namespace {

constexpr ElementType kFloat = ElementType::kFloat32;

ORT_TEST(layer_norm_equals_its_kernel) {
  const std::vector<float> gamma = ramp(24, 1);
  const std::vector<float> beta = ramp(24, 2);
  LoadedModel model(Model()
                        .input("x", kFloat, {Model::kAny, 24})
                        .weight<float>("gamma", kFloat, {24}, gamma)
                        .weight<float>("beta", kFloat, {24}, beta)
                        .node(Node("LayerNorm", {"x", "gamma", "beta"}, "y").set("epsilon", 1e-5f))
                        .output("y", kFloat, {Model::kAny, 24}));
  std::vector<float> x = ramp(3 * 24, 3);
  std::vector<float> y(3 * 24);
  model.input("x", x, kFloat, {3, 24});
  model.output("y", y, {3, 24});
  model.run();
  std::vector<float> expected(3 * 24);
  layer_norm(x.data(), 3, 24, gamma.data(), beta.data(), 1e-5f, expected.data(), Serial(), kernels());
  CHECK(y == expected);
}

ORT_TEST(layer_norm_refuses_unequal_vectors) {
  const std::vector<float> vector = ramp(24, 1);
  const Model model = Model()
                          .input("x", kFloat, {Model::kAny, 24})
                          .weight<float>("gamma", kFloat, {24}, vector)
                          .weight<float>("beta", kFloat, {23}, std::span(vector).first(23))
                          .node(Node("LayerNorm", {"x", "gamma", "beta"}, "y").set("epsilon", 1e-5f))
                          .output("y", kFloat, {Model::kAny, 24});
  CHECK(contains(error_of<ModelError>([&] { LoadedModel loaded(model); }), "beta must have shape [24]"));
}

}  // namespace
}  // namespace gpt2fast::testing
