// The choice of a token, and the distribution that it is drawn from.
#include "decoding/token_chooser.h"

#include <algorithm>
#include <cfloat>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "decoding/log_probabilities.h"
#include "decoding/random.h"
#include "kernels/linear.h"

namespace gpt2fast {
namespace {

const SamplingOptions& checked(const SamplingOptions& options) {
  const auto require = [](bool valid, const char* rule, double value) {
    if (valid) return;
    std::ostringstream message;
    message << rule << ", got " << value;
    throw std::invalid_argument(message.str());
  };
  require(options.temperature > 0 && options.temperature <= FLT_MAX,
          "temperature must be positive and finite", options.temperature);
  require(options.top_k >= 0, "top_k must not be negative", options.top_k);
  require(options.top_p > 0 && options.top_p <= 1, "top_p must be in (0, 1]", options.top_p);
  require(options.min_p >= 0 && options.min_p <= 1, "min_p must be in [0, 1]", options.min_p);
  require(options.typical_p > 0 && options.typical_p <= 1, "typical_p must be in (0, 1]", options.typical_p);
  return options;
}

// The largest of `scores`, whose LinearArguments::maxima are `maxima` (or empty).
Extremum find_max(std::span<const float> scores, std::span<const float> maxima) {
  const auto of = [](std::span<const float> x) {
    return kernels().vocabulary.find_max(x.data(), static_cast<int64_t>(x.size()));
  };
  const Extremum largest = of(maxima);
  if (maxima.empty() || !largest.is_regular) return of(scores);
  const auto begin = static_cast<size_t>(largest.index / kMaximaLanes * kMaximaColumns);
  const size_t count = std::min(static_cast<size_t>(kMaximaColumns), scores.size() - begin);
  Extremum found = of(scores.subspan(begin, count));
  found.index += static_cast<int64_t>(begin);
  return found;
}

// Like find_max; throws std::runtime_error when a score is NaN or infinite.
Extremum find_best(std::span<const float> scores, std::span<const float> maxima,
                   const TokenHistory& history) {
  const Extremum best = find_max(scores, maxima);
  if (!best.is_regular) {
    throw std::runtime_error("a score of output token " + std::to_string(history.output.size()) +
                             " is NaN or infinite: the model produced it, or a penalty or bias is too large");
  }
  return best;
}

}  // namespace

TokenChooser::TokenChooser(std::shared_ptr<const SamplingOptions> options, uint64_t seed,
                           std::span<const int32_t> eos_token_ids, int64_t vocab_size, int64_t max_length)
    : options_(std::move(options)),
      seed_(seed),
      processors_(checked(*options_), eos_token_ids, vocab_size, max_length),
      scores_(std::make_unique_for_overwrite<float[]>(static_cast<size_t>(vocab_size))),
      candidates_(vocab_size) {}

TokenChooser::Choice TokenChooser::choose(std::span<const float> logits, const TokenHistory& history,
                                          const uint32_t* allowed, bool want_logprob, ChoiceHook* hook,
                                          std::span<const float> maxima) {
  Choice choice;
  const std::span<const float> scores = process(logits, history, allowed, hook);
  if (scores.data() != logits.data()) maxima = {};
  const Extremum best = find_best(scores, maxima, history);
  if (best.value < -FLT_MAX) return choice;
  choice.token = static_cast<int32_t>(best.index);
  if (options_->do_sample) {
    filter(scores, best.value);
    choice.token = candidates_.pick(uniform_draw(seed_, history.output.size()));
  }
  if (want_logprob) choice.logprob = log_probability(logits, choice.token);
  return choice;
}

void TokenChooser::distribution(std::span<const float> logits, const TokenHistory& history,
                                const uint32_t* allowed, std::span<float> probabilities) {
  std::ranges::fill(probabilities, 0.0f);
  const std::span<const float> scores = process(logits, history, allowed, nullptr);
  const Extremum best = find_best(scores, {}, history);
  if (best.value < -FLT_MAX) return;
  filter(scores, best.value);
  const double total = candidates_.total_weight();
  for (int64_t i = 0; i < candidates_.count(); ++i) {
    probabilities[static_cast<size_t>(candidates_.id(i))] =
        static_cast<float>(static_cast<double>(candidates_.weight(i)) / total);
  }
}

std::span<const float> TokenChooser::process(std::span<const float> logits, const TokenHistory& history,
                                             const uint32_t* allowed, ChoiceHook* hook) {
  if (processors_.empty() && allowed == nullptr && hook == nullptr) return logits;
  const std::span<float> scores(scores_.get(), logits.size());
  std::ranges::copy(logits, scores.begin());
  processors_.apply(scores, history, allowed);
  if (hook != nullptr) {
    remember_bans(scores);
    hook->process_scores(history, scores);
    ban_again(scores);
  }
  return scores;
}

void TokenChooser::remember_bans(std::span<const float> scores) {
  banned_.assign((scores.size() + 63) / 64, 0);
  for (size_t i = 0; i < scores.size(); ++i) {
    banned_[i / 64] |= uint64_t{scores[i] < -FLT_MAX} << (i % 64);
  }
}

void TokenChooser::ban_again(std::span<float> scores) const {
  for (size_t i = 0; i < scores.size(); ++i) {
    if ((banned_[i / 64] >> (i % 64) & 1) != 0) scores[i] = -std::numeric_limits<float>::infinity();
  }
}

void TokenChooser::filter(std::span<const float> scores, float best) {
  candidates_.reset(scores, best);
  if (!options_->do_sample) {
    candidates_.weigh(1.0f);
    return;
  }
  if (options_->top_k > 0) candidates_.keep_top_k(options_->top_k);
  candidates_.weigh(options_->temperature);
  if (options_->top_p < 1) candidates_.keep_top_p(options_->top_p);
  if (options_->min_p > 0) candidates_.keep_min_p(options_->min_p);
  if (options_->typical_p < 1) candidates_.keep_typical(options_->typical_p);
}

}  // namespace gpt2fast
