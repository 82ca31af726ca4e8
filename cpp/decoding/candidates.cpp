// The filters. Each finds a threshold without sorting the vocabulary, then compacts the columns once.
#include "decoding/candidates.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>

namespace gpt2fast {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Maps floats to integers in the same order, neighbours one apart; both zeros become 0.
int64_t float_rank(float x) {
  const auto magnitude = static_cast<int64_t>(std::bit_cast<uint32_t>(std::fabs(x)));
  return std::signbit(x) ? -magnitude : magnitude;
}

float float_of_rank(int64_t rank) {
  const float magnitude = std::bit_cast<float>(static_cast<uint32_t>(rank < 0 ? -rank : rank));
  return rank < 0 ? -magnitude : magnitude;
}

// `low`, `high`, and the borders that divide the ranks between them into equal parts.
std::array<int64_t, kVocabularyThresholds + 2> even_borders(int64_t low, int64_t high) {
  std::array<int64_t, kVocabularyThresholds + 2> borders;
  constexpr auto kParts = static_cast<int64_t>(borders.size()) - 1;
  for (int64_t i = 0; i <= kParts; ++i) borders[static_cast<size_t>(i)] = low + (high - low) * i / kParts;
  return borders;
}

constexpr int64_t kSortable = 128;  // this many keys are sorted, not divided further

}  // namespace

Candidates::Candidates(int64_t vocab_size, const VocabularyKernels& vocabulary) : kernels_(vocabulary) {
  const auto room = static_cast<size_t>(vocab_size + kVocabularyPadding);
  ids_ = std::make_unique_for_overwrite<int32_t[]>(room);
  for (Floats* buffer : {&scores_, &weights_, &band_keys_, &band_weights_}) {
    *buffer = std::make_unique_for_overwrite<float[]>(room);
  }
  block_sums_ =
      std::make_unique_for_overwrite<float[]>(static_cast<size_t>(vocab_size / kVocabularyBlock + 1));
}

void Candidates::reset(std::span<const float> scores, float max) {
  source_ = scores.data();
  count_ = static_cast<int64_t>(scores.size());
  max_ = max;
  all_ = true;
  weighed_ = false;
}

void Candidates::keep_top_k(int64_t k) {
  if (k >= count_) return;
  constexpr int64_t kFew = 1024;
  if (k > kFew) {
    keep_many(k);
    return;
  }
  // For any partition, at least k scores reach the k-th greatest of the parts' maxima. With several times k
  // parts, little more than k scores do.
  constexpr int64_t kLeastColumns = 768, kLongestColumn = 64;
  const int64_t column_length =
      std::clamp(count_ / std::max(kLeastColumns, 4 * k), int64_t{1}, kLongestColumn);
  float* values = band_keys_.get();
  const int64_t columns = kernels_.column_maxima(source_, count_, column_length, values);
  std::nth_element(values, values + k - 1, values + columns, std::greater<>());
  keep_at_least(source_, std::max(values[k - 1], -FLT_MAX));
  if (count_ <= k) return;
  std::copy_n(scores_.get(), count_, values);
  std::nth_element(values, values + k - 1, values + count_, std::greater<>());
  keep_at_least(scores_.get(), values[k - 1]);
}

// Finds the k-th score: where weights of 1 add up to k.
void Candidates::keep_many(int64_t k) {
  Borders borders;
  borders.front() = float_rank(-FLT_MAX);
  for (size_t i = 1; i <= kVocabularyThresholds; ++i) {
    borders[i] = float_rank(max_ - std::ldexp(1.0f, static_cast<int>(kVocabularyThresholds - i)));
  }
  borders.back() = float_rank(max_) + 1;
  std::fill_n(weights_.get(), count_, 1.0f);
  keep_at_least(source_, find_cut(source_, borders, static_cast<double>(k)).key);
}

void Candidates::weigh(float temperature) {
  temperature_ = temperature;
  weighed_ = true;
  kernels_.exp_weights(scores(), count_, max_, temperature, weights_.get());
}

void Candidates::keep_top_p(double top_p) {
  const double total = total_weight();
  const double target = top_p * total;
  // Weights below this add up to less than what is dropped, with a margin for rounding.
  const auto lowest = static_cast<float>(0.5 * (total - target) / static_cast<double>(count_));
  const Cut cut = find_cut(weights_.get(), even_borders(float_rank(lowest), float_rank(1.0f) + 1), target);
  keep_at_least(weights_.get(), cut.key);
  const double needed = std::ceil((target - cut.weight_above) / static_cast<double>(cut.key));
  if (needed < static_cast<double>(cut.ties)) drop_ties(cut.key, static_cast<int64_t>(std::max(needed, 1.0)));
}

void Candidates::keep_min_p(double min_p) { keep_at_least(weights_.get(), static_cast<float>(min_p)); }

void Candidates::keep_typical(double typical_p) {
  // With s = (score - max) / temperature and p = e^s / Z: -log p - entropy = mean(s) - s, the mean being
  // weighted by p.
  const double total = total_weight();
  const double mean = kernels_.weighted_log(scores(), weights_.get(), count_, max_, temperature_) / total;
  float* keys = scores_.get();
  kernels_.negative_distance(scores(), count_, max_, temperature_, static_cast<float>(mean), keys);
  // Tokens farther from the mean than the first have a weight of zero.
  constexpr std::array kBorders = {-256.0f, -16.0f, -8.0f, -4.0f, -2.0f, -1.0f, -0.5f, -0.25f};
  Borders borders;
  std::ranges::transform(kBorders, borders.begin(), float_rank);
  borders.back() = 1;
  const Cut cut = find_cut(keys, borders, typical_p * total);
  keep_at_least(keys, cut.key);
}

Candidates::Cut Candidates::find_cut(const float* keys, Borders borders, double target) {
  const float* weights = weights_.get();
  int64_t count = count_;
  double above = 0;
  // The cut lies between the outer borders: the weights above them are too little, those above and between
  // them are enough.
  while (count > kSortable && borders.back() - borders.front() > 1) {
    std::array<float, kVocabularyThresholds> thresholds;
    std::array<double, kVocabularyThresholds> totals;
    std::transform(borders.begin() + 1, borders.end() - 1, thresholds.begin(), float_of_rank);
    kernels_.weigh_above(keys, weights, count, thresholds.data(), totals.data());
    size_t part = kVocabularyThresholds;  // the topmost part that reaches the target
    while (part > 0 && above + totals[part - 1] < target) --part;
    if (part < kVocabularyThresholds) above += totals[part];
    borders = even_borders(borders[part], borders[part + 1]);
    count = kernels_.compact({.keys = keys,
                              .count = count,
                              .low = float_of_rank(borders.front()),
                              .high = float_of_rank(borders.back()),
                              .first = keys,
                              .first_out = band_keys_.get(),
                              .second = weights,
                              .second_out = band_weights_.get()});
    keys = band_keys_.get();
    weights = band_weights_.get();
  }
  if (count == 0 || count > kSortable) return {float_of_rank(borders.front()), above, count};
  return sort_band(keys, weights, static_cast<size_t>(count), above, target);
}

Candidates::Cut Candidates::sort_band(const float* keys, const float* weights, size_t count, double above,
                                      double target) {
  std::array<std::pair<float, float>, kSortable> band;  // key, weight
  for (size_t i = 0; i < count; ++i) band[i] = {keys[i], weights[i]};
  std::sort(band.begin(), band.begin() + static_cast<std::ptrdiff_t>(count), std::greater<>());
  Cut cut{band[0].first, above, 0};
  for (const auto& [key, weight] : std::span(band).first(count)) {
    if (key != cut.key) {
      if (above >= target) break;
      cut = {key, above, 0};
    }
    above += static_cast<double>(weight);
    ++cut.ties;
  }
  return cut;
}

void Candidates::keep_at_least(const float* keys, float low) {
  count_ = kernels_.compact({.keys = keys,
                             .count = count_,
                             .low = low,
                             .high = kInfinity,
                             .ids = all_ ? nullptr : ids_.get(),
                             .ids_out = ids_.get(),
                             .first = scores(),
                             .first_out = scores_.get(),
                             .second = weights_.get(),
                             .second_out = weighed_ ? weights_.get() : nullptr});
  all_ = false;
}

void Candidates::drop_ties(float weight, int64_t kept_ties) {
  size_t kept = 0;
  for (size_t i = 0; i < static_cast<size_t>(count_); ++i) {
    if (weights_[i] == weight && --kept_ties < 0) continue;
    ids_[kept] = ids_[i];
    scores_[kept] = scores_[i];
    weights_[kept++] = weights_[i];
  }
  count_ = static_cast<int64_t>(kept);
}

int32_t Candidates::pick(double fraction) {
  const double total = total_weight();
  const double target =
      std::min(fraction * total, std::nextafter(total, 0.0));  // the product may round up to total
  double before = 0;
  int64_t chosen = 0;
  for (int64_t block = 0; block < count_; block += kVocabularyBlock) {
    const auto sum = static_cast<double>(block_sums_[static_cast<size_t>(block / kVocabularyBlock)]);
    if (before + sum <= target) {
      before += sum;
      continue;
    }
    const int64_t end = std::min(block + kVocabularyBlock, count_);
    for (int64_t i = block; i < end; ++i) {
      if (weight(i) == 0) continue;
      chosen = i;
      before += static_cast<double>(weight(i));
      if (before > target) return id(i);
    }
    break;  // one by one, the block's elements add up to less than their vectorised sum, by rounding
  }
  return id(chosen);
}

}  // namespace gpt2fast
