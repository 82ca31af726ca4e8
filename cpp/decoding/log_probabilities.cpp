// Log-probabilities: a maximum, a sum of exponentials, and a logarithm that is the same on every platform.
#include "decoding/log_probabilities.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <stdexcept>

namespace gpt2fast {
namespace {

// ln(x) for positive finite x, by exact or correctly rounded operations alone, so that every platform gives
// the same bits: 2 atanh((m - 1) / (m + 1)) with m in [sqrt(1/2), sqrt(2)]. The series' remainder is below
// 1e-19.
double natural_log(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < 0.70710678118654752440) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);
  const double square = s * s;
  double series = 0;
  for (int odd = 23; odd >= 1; odd -= 2) series = series * square + 1.0 / odd;
  return exponent * 0.69314718055994530942 + 2 * s * series;
}

[[noreturn]] void throw_irregular() {
  throw std::runtime_error("the model produced a logit that is NaN or infinite");
}

// `sum`: of exp(logit - max).
double add_log(float max, double sum) {
  if (sum == 0) throw std::runtime_error("the model produced no logit above -infinity");
  return static_cast<double>(max) + natural_log(sum);
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const VocabularyKernels& vocabulary = kernels().vocabulary;
  const auto count = static_cast<int64_t>(logits.size());
  const Extremum best = vocabulary.find_max(logits.data(), count);
  if (!best.is_regular) throw_irregular();
  const float max = std::max(best.value, -FLT_MAX);
  return add_log(max, vocabulary.exp_sum(logits.data(), count, max));
}

float log_probability(const SummedLogits& logits) {
  const float max = *std::ranges::max_element(logits.maxima);
  const double sum = kernels().vocabulary.add_exp_sums(logits.maxima.data(), logits.sums.data(),
                                                       static_cast<int64_t>(logits.maxima.size()), max);
  if (std::isnan(sum)) throw_irregular();
  return static_cast<float>(static_cast<double>(logits.wanted) - add_log(max, sum));
}

void log_softmax(std::span<const float> logits, std::span<float> log_probabilities) {
  kernels().vocabulary.subtract(logits.data(), static_cast<int64_t>(logits.size()), log_sum_exp(logits),
                                log_probabilities.data());
}

TopLogprobs::TopLogprobs(int64_t vocab_size, int32_t k)
    : k_(std::min<int64_t>(k, vocab_size)), candidates_(vocab_size) {
  best_.resize(static_cast<size_t>(vocab_size));
}

std::span<const TokenLogprob> TopLogprobs::find(std::span<const float> logits) {
  normalizer_ = log_sum_exp(logits);
  candidates_.reset(logits, 0);
  candidates_.keep_top_k(k_);
  const auto count = static_cast<size_t>(candidates_.count());
  for (size_t i = 0; i < count; ++i) {
    const int32_t token = candidates_.id(static_cast<int64_t>(i));
    best_[i] = {token, logits[static_cast<size_t>(token)]};
  }
  const auto before = [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
  };
  const auto kept = std::min(count, static_cast<size_t>(k_));
  std::partial_sort(best_.begin(), best_.begin() + static_cast<std::ptrdiff_t>(kept),
                    best_.begin() + static_cast<std::ptrdiff_t>(count), before);
  for (TokenLogprob& entry : std::span(best_).first(kept)) {
    entry.logprob = log_probability(entry.logprob);
  }
  return std::span(best_).first(kept);
}

}  // namespace gpt2fast
