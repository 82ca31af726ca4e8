// One request in flight.
#include "engine/live_sequence.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace gpt2fast {

namespace {

// What buffers are sized for. A sliding sequence may be endless: beyond this they grow, and drafts end.
constexpr int64_t kMaxReservedTokens = 1 << 16;

int64_t max_length(const Request& request) {
  return static_cast<int64_t>(request.prompt.size()) +
         std::min(request.stop.max_new_tokens, kMaxReservedTokens);
}

}  // namespace

void check_token_ids(std::span<const int32_t> tokens, int64_t vocab_size) {
  if (tokens.empty()) throw std::invalid_argument("a sequence must have at least one token");
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      throw std::invalid_argument("token ids must be from 0 to " + std::to_string(vocab_size - 1) + ", got " +
                                  std::to_string(token));
    }
  }
}

std::vector<float> next_token_distribution(const Request& request, std::span<const int32_t> output,
                                           std::span<const float> logits) {
  const auto vocabulary = static_cast<int64_t>(logits.size());
  check_token_ids(request.prompt, vocabulary);
  if (!output.empty()) check_token_ids(output, vocabulary);
  std::vector<float> probabilities(logits.size());
  TokenChooser(request.sampling, request.stop.eos_token_ids, vocabulary, max_length(request))
      .distribution(logits, {request.prompt, output}, nullptr, probabilities);
  return probabilities;
}

LiveSequence::LiveSequence(Request request, const EngineOptions& options)
    : request_(std::move(request)),
      options_(options),
      tokens_(request_.prompt),
      prompt_length_(tokens_.size()),
      chooser_(request_.sampling, request_.stop.eos_token_ids, options.vocab_size, max_length(request_)) {
  check_token_ids(tokens_, options.vocab_size);
  const StopOptions& stop = request_.stop;
  if (stop.max_new_tokens < 0) throw std::invalid_argument("max_new_tokens must be at least 0");
  const auto window_limit = static_cast<size_t>(options.n_positions);
  if (tokens_.size() > window_limit) {
    if (!request_.slide) {
      throw std::invalid_argument("the prompt has " + std::to_string(tokens_.size()) +
                                  " tokens, the model's context window " +
                                  std::to_string(options.n_positions));
    }
    window_start_ = tokens_.size() - std::max<size_t>(1, window_limit / 2);
  }
  tokens_.reserve(static_cast<size_t>(max_length(request_)));
  if (!stop.stop_strings.empty()) {
    if (!stop.token_bytes) throw std::invalid_argument("stop_strings need token_bytes");
    stop_matcher_.emplace(stop.stop_strings, stop.include_stop_string);
  }
  if (request_.prompt_lookup_num_tokens > 0) {
    prompt_lookup_.emplace(request_.prompt_lookup_num_tokens, max_length(request_));
    prompt_lookup_->append(tokens_);
  }
  if (request_.assistant && request_.num_assistant_tokens > 0 && !prompt_lookup_) {
    assistant_ = std::make_unique<Assistant>(request_, options, max_length(request_));
  }
  if (stop.max_seconds > 0) {
    deadline_ = Clock::now() +
                std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(stop.max_seconds));
  }
  if (request_.logprobs >= 0) {
    const auto count = static_cast<size_t>(std::min(stop.max_new_tokens, kMaxReservedTokens));
    logprobs_.chosen.reserve(count);
    logprobs_.top_ids.reserve(count * static_cast<size_t>(request_.logprobs));
    logprobs_.top_values.reserve(count * static_cast<size_t>(request_.logprobs));
    if (request_.logprobs > 0) top_logprobs_.emplace(options.vocab_size, request_.logprobs);
  }
  if (stop.max_new_tokens == 0) finish(FinishReason::kLength);
}

std::span<const int32_t> LiveSequence::take_new_output() {
  return output().subspan(std::exchange(taken_output_, output().size()));
}

void LiveSequence::give_slot(int64_t slot, int64_t cached_length) {
  slot_ = slot;
  cached_length_ = cached_length;
  reused_tokens_ = cached_length;
}

int64_t LiveSequence::take_slot() {
  if (assistant_) assistant_->release_slot();
  return std::exchange(slot_, -1);
}

bool LiveSequence::window_is_full() const {
  return static_cast<int64_t>(window().size()) > options_.n_positions;
}

std::span<const int32_t> LiveSequence::pending_tokens() {
  if (window_is_full()) {
    // Learned positions can't be shifted: the newer half is computed again, at the positions it moves to.
    window_start_ = tokens_.size() - std::max<size_t>(1, static_cast<size_t>(options_.n_positions) / 2);
    cached_length_ = 0;
  }
  return window().subspan(static_cast<size_t>(cached_length_));
}

std::span<const int32_t> LiveSequence::propose_drafts(int64_t limit, const InterruptCheck& stop) {
  if (!prompt_lookup_ && !assistant_) return {};
  const auto room = options_.n_positions - static_cast<int64_t>(window().size());
  const auto wanted = request_.stop.max_new_tokens - static_cast<int64_t>(output().size()) - 1;
  const int64_t most = std::max<int64_t>(0, std::min({limit, room, wanted}));
  if (prompt_lookup_) return prompt_lookup_->propose(most);
  return assistant_->propose(history(), most, stop);
}

void LiveSequence::report_drafts(int64_t proposed, int64_t accepted) {
  if (proposed == 0) return;
  if (prompt_lookup_) prompt_lookup_->accept(accepted);
  if (assistant_) assistant_->accept(accepted);
}

int32_t LiveSequence::choose_next(std::span<const float> scores, std::span<const float> maxima) {
  const uint32_t* allowed = nullptr;
  if (request_.hook) allowed = request_.hook->allowed_tokens(history(), options_.vocab_size);
  const TokenChooser::Choice choice =
      chooser_.choose(scores, history(), allowed, request_.logprobs >= 0, request_.hook.get(), maxima);
  if (choice.token == TokenChooser::kNoToken) {
    finish(FinishReason::kConstraint);
    return choice.token;
  }
  if (request_.logprobs >= 0) record_logprobs(scores, choice.logprob);
  append(choice.token);
  return choice.token;
}

void LiveSequence::record_logprobs(std::span<const float> scores, float chosen) {
  logprobs_.chosen.push_back(chosen);
  if (!top_logprobs_) return;
  for (const TokenLogprob& best : top_logprobs_->find(scores)) {
    logprobs_.top_ids.push_back(best.token);
    logprobs_.top_values.push_back(best.logprob);
  }
}

void LiveSequence::append(int32_t token) {
  tokens_.push_back(token);
  if (static_cast<int64_t>(tokens_.size()) > max_length(request_))
    prompt_lookup_.reset();  // its tables are full
  if (prompt_lookup_) prompt_lookup_->append({&token, 1});
  if (stop_matcher_ && stop_matcher_->feed((*request_.stop.token_bytes)[token])) finish(FinishReason::kStop);
  const std::vector<int32_t>& eos = request_.stop.eos_token_ids;
  if (std::find(eos.begin(), eos.end(), token) != eos.end()) finish(FinishReason::kEos);
  if (!finished() && request_.hook && request_.hook->is_complete(history())) finish(FinishReason::kStop);
  const bool at_window_end = window_is_full() && !request_.slide;
  const bool at_limit = static_cast<int64_t>(output().size()) >= request_.stop.max_new_tokens;
  if (!finished() && (at_limit || at_window_end)) finish(FinishReason::kLength);
}

std::optional<int64_t> LiveSequence::safe_bytes() const {
  if (!stop_matcher_) return std::nullopt;
  return finished() ? stop_matcher_->kept_bytes() : stop_matcher_->safe_bytes();
}

}  // namespace gpt2fast
