// A small random model with the graph of a real one, for tests of the engine with ONNX Runtime.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpt2fast/engine.h"
#include "gpt2fast/weights.h"
#include "kernels/linear.h"
#include "support/onnx_builder.h"
#include "support/ort_testing.h"

namespace gpt2fast::testing::small_model {

inline constexpr int64_t kLayers = 2;
inline constexpr int64_t kHeads = 2;
inline constexpr int64_t kHeadDim = 8;
inline constexpr int64_t kWidth = kHeads * kHeadDim;
inline constexpr int64_t kInner = 24;
inline constexpr int64_t kVocabulary = 40;
inline constexpr int64_t kPositions = 64;

inline constexpr int kTableSeed = 77;

// A packed weight of reproducible values.
inline std::vector<uint8_t> packed(int64_t in_features, int64_t out_features, int seed) {
  const std::vector<float> plain = ramp(static_cast<size_t>(in_features * out_features), seed);
  std::vector<uint8_t> bytes(packed_weight_bytes(WeightFormat::kInt8, in_features, out_features));
  pack_weight(WeightFormat::kInt8, plain.data(), out_features, 1, in_features, out_features, 1, bytes.data());
  return bytes;
}

// The tables of the embedding.
inline std::vector<uint8_t> table() { return packed(kWidth, kVocabulary, kTableSeed); }
inline std::vector<float> positions() { return ramp(static_cast<size_t>(kPositions * kWidth), 5); }

// Adds a packed weight; returns its name.
inline std::string packed(Model& model, const std::string& name, int64_t in_features, int64_t out_features,
                          int seed) {
  const std::vector<uint8_t> bytes = packed(in_features, out_features, seed);
  model.weight<uint8_t>(name, ElementType::kUInt8, {static_cast<int64_t>(bytes.size())}, bytes);
  return name;
}

inline std::string vector(Model& model, const std::string& name, int64_t size, int seed) {
  model.weight<float>(name, ElementType::kFloat32, {size}, ramp(static_cast<size_t>(size), seed));
  return name;
}

inline Node linear(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
                   int64_t in_features, int64_t out_features) {
  return Node("Linear", inputs, outputs)
      .set("in_features", in_features)
      .set("out_features", out_features)
      .set("format", int64_t{2})
      .set("activation", int64_t{0})
      .set("epsilon", 1e-5f);
}

inline void add_layer(Model& model, int64_t layer, const std::string& x, const std::string& y) {
  const std::string p = "h" + std::to_string(layer) + ".";
  const int seed = 10 * static_cast<int>(layer);
  const std::string gamma = vector(model, p + "gamma", kWidth, seed + 1);
  const std::string beta = vector(model, p + "beta", kWidth, seed + 2);
  model.node(linear({x, packed(model, p + "qkv", kWidth, 3 * kWidth, seed + 3),
                     vector(model, p + "qkv_bias", 3 * kWidth, seed + 4), gamma, beta},
                    {p + "q"}, kWidth, 3 * kWidth)
                 .named("h." + std::to_string(layer) + ".attn.c_attn"));
  std::vector<std::string> attended = {p + "q", "sequence_starts", "slots", "cached_lengths", "kv_cache"};
  if (layer == kLayers - 1) attended.push_back("hidden_rows");
  model.node(Node("CachedAttention", attended, p + "a")
                 .set("layer", layer)
                 .set("layers", kLayers)
                 .set("heads", kHeads)
                 .set("head_dim", kHeadDim)
                 .set("positions", kPositions)
                 .set("scale", 0.35f));
  model.node(linear({p + "a", packed(model, p + "proj", kWidth, kWidth, seed + 5),
                     vector(model, p + "proj_bias", kWidth, seed + 6), "", "", x},
                    {p + "x"}, kWidth, kWidth));
  model.node(linear({p + "x", packed(model, p + "fc", kWidth, kInner, seed + 7),
                     vector(model, p + "fc_bias", kInner, seed + 8), gamma, beta},
                    {p + "f"}, kWidth, kInner));
  model.node(linear({p + "f", packed(model, p + "mlp", kInner, kWidth, seed + 9),
                     vector(model, p + "mlp_bias", kWidth, seed + 1), "", "", p + "x"},
                    {y}, kInner, kWidth));
}

inline Model graph() {
  Model model;
  for (const char* name : {"input_ids", "positions", "sequence_starts", "slots", "cached_lengths",
                           "hidden_rows", "logits_rows"}) {
    model.input(name, ElementType::kInt32, {Model::kAny});
  }
  model.input("kv_cache", ElementType::kUInt8, {Model::kAny, 1, kLayers, kHeads, 2, Model::kAny});
  const std::string table = packed(model, "table", kWidth, kVocabulary, kTableSeed);
  model.weight<float>("wpe", ElementType::kFloat32, {kPositions, kWidth}, positions());
  model.node(Node("Embed", {"input_ids", "positions", table, "wpe"}, "x0")
                 .set("width", kWidth)
                 .set("vocabulary", kVocabulary)
                 .set("format", int64_t{2}));
  add_layer(model, 0, "x0", "x1");
  add_layer(model, 1, "x1", "x2");
  model.node(Node("Gather", {"x2", "hidden_rows"}, "kept", ""));
  model.node(Node("LayerNorm",
                  {"kept", vector(model, "ln_f.g", kWidth, 3), vector(model, "ln_f.b", kWidth, 4)}, "hidden")
                 .set("epsilon", 1e-5f));
  model.node(Node("Gather", {"hidden", "logits_rows"}, "rows", ""));
  model.node(linear({"rows", table}, {"logits", "logits_maxima"}, kWidth, kVocabulary));
  model.output("logits", ElementType::kFloat32, {Model::kAny, kVocabulary});
  model.output("logits_maxima", ElementType::kFloat32, {Model::kAny, kMaximaLanes});  // of fewer than 256
  model.output("hidden", ElementType::kFloat32, {Model::kAny, kWidth});
  return model;
}

inline EngineOptions options_of(int64_t max_sequences = 4, int64_t max_step_tokens = 16) {
  return {.model = in_memory(graph()),
          .n_layer = kLayers,
          .n_head = kHeads,
          .head_dim = kHeadDim,
          .n_positions = kPositions,
          .vocab_size = kVocabulary,
          .cache_format = CacheFormat::kFloat32,
          .threads = 1,
          .max_sequences = max_sequences,
          .max_step_tokens = max_step_tokens,
          .prefix_cache_bytes = 1 << 20,
          .with_host_lock = {}};
}

// Each token is one letter.
inline std::shared_ptr<const TokenBytes> letters() {
  std::string data;
  std::vector<int32_t> offsets{0};
  for (int32_t i = 0; i < kVocabulary; ++i) {
    data.push_back(static_cast<char>('A' + i));
    offsets.push_back(i + 1);
  }
  return std::make_shared<TokenBytes>(data, offsets, std::vector<int32_t>{});
}

}  // namespace gpt2fast::testing::small_model
