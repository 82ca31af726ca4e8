// The tokens that may still be drawn, with their weights, and the filters that narrow them down. No filter
// sorts the vocabulary: vectorised passes find a threshold, and only the tokens next to it are sorted.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/kernel_table.h"

namespace gpt2fast {

// Filters are applied in the order of their declaration, as in transformers, each at most once. Tokens stay
// in the order of their ids, and the best token always stays.
class Candidates {
 public:
  // Buffers that a set of options does not use cost only address space.
  explicit Candidates(int64_t vocab_size, const VocabularyKernels& vocabulary = kernels().vocabulary);

  // Starts with all tokens of `scores` [vocab_size], whose finite maximum is `max`. `scores` must outlive the
  // filtering.
  void reset(std::span<const float> scores, float max);

  // Keeps the k best and all that tie with the k-th.
  void keep_top_k(int64_t k);
  // Computes weights exp((score - max) / temperature); the best token's is 1.
  void weigh(float temperature);
  // Keeps the fewest best tokens whose probabilities reach top_p; among equals at the border, the lower ids.
  void keep_top_p(double top_p);
  // Keeps the tokens at least min_p times as probable as the best.
  void keep_min_p(double min_p);
  // Keeps the tokens whose information is nearest to the entropy, until their probabilities reach typical_p,
  // and all that tie with the last of them (Meister, Pimentel, Wiher, Cotterell: Locally typical sampling,
  // 2023).
  void keep_typical(double typical_p);

  int64_t count() const { return count_; }
  int32_t id(int64_t index) const {
    return all_ ? static_cast<int32_t>(index) : ids_[static_cast<size_t>(index)];
  }
  float weight(int64_t index) const { return weights_[static_cast<size_t>(index)]; }
  double total_weight() { return kernels_.sum_blocks(weights_.get(), count_, block_sums_.get()); }

  // Returns the token at `fraction` in [0, 1) of the total weight, counted in the order of ids.
  int32_t pick(double fraction);

 private:
  using Borders = std::array<int64_t, kVocabularyThresholds + 2>;
  // The key at which a sum of weights, in descending order of keys, reaches a target.
  struct Cut {
    float key;
    double weight_above;  // the sum of weights of all greater keys
    int64_t ties;         // how many weights have this key
  };
  // Finds where the sum of weights_, in descending order of `keys` [count], reaches a target. The borders are
  // ranks of floats in ascending order that are tried first; all keys with a weight lie between the outer
  // ones.
  Cut find_cut(const float* keys, Borders borders, double target);
  static Cut sort_band(const float* keys, const float* weights, size_t count, double above, double target);
  void keep_many(int64_t k);
  void keep_at_least(const float* keys, float low);
  void drop_ties(float weight, int64_t kept_ties);
  const float* scores() const { return all_ ? source_ : scores_.get(); }

  using Floats = std::unique_ptr<float[]>;

  const VocabularyKernels& kernels_;
  const float* source_ = nullptr;  // the scores that reset() was given
  float max_ = 0;
  float temperature_ = 1;
  int64_t count_ = 0;
  // Nothing has been dropped yet: candidate i is token i with score source_[i].
  bool all_ = true;
  bool weighed_ = false;

  // Each [vocab_size + kVocabularyPadding].
  std::unique_ptr<int32_t[]> ids_;
  Floats scores_;
  Floats weights_;
  Floats band_keys_;  // scratch memory of the searches for a threshold: the keys between the borders
  Floats band_weights_;
  Floats block_sums_;  // [blocks of weights_]
};

}  // namespace gpt2fast
