// The tokens that may still be drawn, with their weights, and the filters that narrow them down. No filter
// sorts the vocabulary: thresholds are found by vectorised passes, and only what lies next to a threshold is
// sorted.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/kernel_table.h"

namespace gpt2fast {

// Filters are applied in the order of their declaration (as transformers does), each at most once. The tokens
// stay in the order of their ids throughout, and the best token always stays.
class Candidates {
 public:
  // Buffers that an option set does not touch cost address space only.
  explicit Candidates(int64_t vocab_size, const VocabularyKernels& vocabulary = kernels().vocabulary);

  // All tokens of `scores` [vocab_size], whose maximum is `max`, finite. `scores` must outlive the filtering.
  void reset(std::span<const float> scores, float max);

  // The k best and all that tie with the k-th.
  void keep_top_k(int64_t k);
  // weight = exp((score - max) / temperature): the best token's is 1.
  void weigh(float temperature);
  // The fewest best tokens whose probabilities reach top_p; among equals at the border the lower ids.
  void keep_top_p(double top_p);
  // Those at least min_p times as probable as the best.
  void keep_min_p(double min_p);
  // The tokens whose information is nearest to the entropy, until their probabilities reach typical_p, with
  // all that tie with the last of them (Meister, Pimentel, Wiher, Cotterell: Locally typical sampling, 2023).
  void keep_typical(double typical_p);

  int64_t count() const { return count_; }
  int32_t id(int64_t index) const {
    return all_ ? static_cast<int32_t>(index) : ids_[static_cast<size_t>(index)];
  }
  float weight(int64_t index) const { return weights_[static_cast<size_t>(index)]; }
  double total_weight() { return kernels_.sum_blocks(weights_.get(), count_, block_sums_.get()); }

  // The token at `fraction` in [0, 1) of the total weight, counted in the order of ids.
  int32_t pick(double fraction);

 private:
  using Borders = std::array<int64_t, kVocabularyThresholds + 2>;
  // Where a sum of weights in descending order of their keys reaches a target.
  struct Cut {
    float key;
    double weight_above;  // of all greater keys
    int64_t ties;         // how many have this key
  };
  // Sums weights_ in descending order of `keys` [count]. The borders are ranks of floats in ascending order,
  // to be tried first; all keys that weigh anything lie between the outer ones.
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
  bool all_ = true;  // nothing was dropped yet: candidate i is token i with score source_[i]
  bool weighed_ = false;

  // Each [vocab_size + kVocabularyPadding].
  std::unique_ptr<int32_t[]> ids_;
  Floats scores_;
  Floats weights_;
  Floats band_keys_;  // scratch of the searches for a threshold: what is still in question
  Floats band_weights_;
  Floats block_sums_;  // [blocks of weights_]
};

}  // namespace gpt2fast
