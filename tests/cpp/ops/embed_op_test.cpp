// Embed gives what its kernel gives, and refuses what lies outside its tables.
#include "ops/embed_op.h"

#include <string>
#include <vector>

#include "kernels/embedding.h"
#include "support/packed_weight.h"

namespace gpt2fast::testing {
namespace {

constexpr ElementType kFloat = ElementType::kFloat32;
constexpr ElementType kInt = ElementType::kInt32;
constexpr ElementType kByte = ElementType::kUInt8;

Model embed_model(int64_t vocabulary, int64_t positions_width) {
  const std::vector<uint8_t> table = packed(WeightFormat::kInt8, 24, 30);
  return Model()
      .input("input_ids", kInt, {Model::kAny})
      .input("positions", kInt, {Model::kAny})
      .weight<uint8_t>("table", kByte, {static_cast<int64_t>(table.size())}, table)
      .weight<float>("positions_table", kFloat, {10, positions_width},
                     ramp(static_cast<size_t>(10 * positions_width), 7))
      .node(Node("Embed", {"input_ids", "positions", "table", "positions_table"}, "y")
                .set("width", int64_t{24})
                .set("vocabulary", vocabulary)
                .set("format", int64_t{2}))
      .output("y", kFloat, {Model::kAny, 24});
}

std::string embed_error(std::vector<int32_t> ids, std::vector<int32_t> positions) {
  LoadedModel model(embed_model(30, 24));
  std::vector<float> y(ids.size() * 24);
  model.input("input_ids", ids, kInt, {static_cast<int64_t>(ids.size())});
  model.input("positions", positions, kInt, {static_cast<int64_t>(positions.size())});
  model.output("y", y, {static_cast<int64_t>(ids.size()), 24});
  return error_of<ModelError>([&] { model.run(); });
}

ORT_TEST(embed_equals_its_kernel) {
  LoadedModel model(embed_model(30, 24));
  std::vector<int32_t> ids = {29, 0, 7};
  std::vector<int32_t> positions = {0, 9, 1};
  std::vector<float> y(3 * 24);
  model.input("input_ids", ids, kInt, {3});
  model.input("positions", positions, kInt, {3});
  model.output("y", y, {3, 24});
  model.run();
  const Aligned table(packed(WeightFormat::kInt8, 24, 30));
  const std::vector<float> positions_table = ramp(10 * 24, 7);
  std::vector<float> expected(3 * 24);
  embed(WeightFormat::kInt8, table.data(), positions_table.data(), ids.data(), positions.data(), 3, 24,
        expected.data(), Serial());
  CHECK(y == expected);
}

ORT_TEST(embed_refuses_what_is_outside_its_tables) {
  CHECK_EQ(embed_error({0, 29}, {0, 9}), std::string());
  CHECK(contains(embed_error({0, 30}, {0, 1}), "input_ids must be in [0, 30), got 30"));
  CHECK(contains(embed_error({-1}, {0}), "input_ids must be in [0, 30), got -1"));
  CHECK(contains(embed_error({0}, {10}), "positions must be in [0, 10), got 10"));
  CHECK(contains(embed_error({0, 1}, {0}), "positions must have 2 elements"));
  CHECK(contains(error_of<ModelError>([] { LoadedModel model(embed_model(33, 24)); }),
                 "table must have shape"));
  CHECK(contains(error_of<ModelError>([] { LoadedModel model(embed_model(30, 23)); }), "positions_table"));
}

}  // namespace
}  // namespace gpt2fast::testing
