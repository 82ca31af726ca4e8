// A text being generated.
#include "engine/live_sequence.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/admission.h"

namespace gpt2fast {

namespace {

// What buffers are sized for. A sliding sequence may be endless: beyond this they grow, and drafts end.
constexpr int64_t kMaxReservedTokens = 1 << 16;

int64_t max_length(const Request& request, const GenerationOptions& options) {
  return static_cast<int64_t>(request.prompt.size()) +
         std::min(options.stop.max_new_tokens, kMaxReservedTokens);
}

std::shared_ptr<const SamplingOptions> sampling_of(std::shared_ptr<const GenerationOptions> options) {
  const SamplingOptions* sampling = &options->sampling;
  return {std::move(options), sampling};
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

std::vector<float> next_token_distribution(const Request& request, const GenerationOptions& options,
                                           std::span<const int32_t> output, std::span<const float> logits) {
  const auto vocabulary = static_cast<int64_t>(logits.size());
  check_token_ids(request.prompt, vocabulary);
  if (!output.empty()) check_token_ids(output, vocabulary);
  std::vector<float> probabilities(logits.size());
  const auto sampling = std::make_shared<const SamplingOptions>(options.sampling);
  TokenChooser(sampling, request.seed, options.stop.eos_token_ids, vocabulary, max_length(request, options))
      .distribution(logits, {request.prompt, output}, nullptr, probabilities);
  return probabilities;
}

LiveSequence::LiveSequence(Request request, std::shared_ptr<const GenerationOptions> generation,
                           const EngineOptions& options, bool streamed, std::shared_ptr<Waker> waker)
    : request_(std::move(request)),
      generation_(std::move(generation)),
      options_(options),
      streamed_(streamed),
      waker_(std::move(waker)),
      tokens_(request_.prompt),
      prompt_length_(tokens_.size()) {
  check_token_ids(tokens_, options.vocab_size);
  const StopOptions& stop = generation_->stop;
  if (stop.max_new_tokens < 0) throw std::invalid_argument("max_new_tokens must be at least 0");
  const auto window_limit = static_cast<size_t>(options.n_positions);
  if (tokens_.size() > window_limit) {
    if (!generation_->slide) {
      throw std::invalid_argument("the prompt has " + std::to_string(tokens_.size()) +
                                  " tokens, the model's context window " +
                                  std::to_string(options.n_positions));
    }
    window_start_ = tokens_.size() - std::max<size_t>(1, window_limit / 2);
  }
  stop_matcher_ = stop_matcher_for(stop, request_.prompt);
  if (stop.max_new_tokens == 0) finish(FinishReason::kLength);
}

void LiveSequence::prepare() {
  const GenerationOptions& generation = *generation_;
  const int64_t length = max_length(request_, generation);
  if (!chooser_) {
    chooser_.emplace(sampling_of(generation_), request_.seed, generation.stop.eos_token_ids,
                     options_.vocab_size, length);
  }
  if (generation.logprobs > 0 && !top_logprobs_)
    top_logprobs_.emplace(options_.vocab_size, generation.logprobs);
  if (tokens_.capacity() >= static_cast<size_t>(length)) return;  // the rest was made before
  tokens_.reserve(static_cast<size_t>(length));
  if (generation.prompt_lookup_num_tokens > 0) {
    prompt_lookup_.emplace(generation.prompt_lookup_num_tokens, length);
    prompt_lookup_->append(tokens_);
    drafts_.reserve(static_cast<size_t>(generation.prompt_lookup_num_tokens));
  } else if (generation.assistant && generation.num_assistant_tokens > 0) {
    assistant_ = std::make_unique<Assistant>(generation, request_.seed, options_, length, waker_);
    drafts_.reserve(static_cast<size_t>(generation.num_assistant_tokens));
  }
  if (generation.logprobs >= 0) {
    const auto count = static_cast<size_t>(std::min(generation.stop.max_new_tokens, kMaxReservedTokens));
    logprobs_.chosen.reserve(count);
    logprobs_.top_ids.reserve(count * static_cast<size_t>(generation.logprobs));
    logprobs_.top_values.reserve(count * static_cast<size_t>(generation.logprobs));
  }
}

Admitted LiveSequence::admit(Admission& admission) {
  pending_tokens();  // moves the window if it is full
  const Admission::Grant grant =
      admission.acquire(window(), {generation_->use_prefix_cache, generation_->prefix_scope},
                        generation_->prefix.get(), max_length(request_, *generation_));
  if (grant.admitted != Admitted::kYes) return grant.admitted;
  slot_ = grant.slot;
  cached_length_ = grant.cached_length;
  if (reused_tokens_ < 0) {
    reused_tokens_ = grant.cached_length;
    started_ = Clock::now();
  }
  prepare();
  return Admitted::kYes;
}

void LiveSequence::release(SlotPool& slots) {
  if (slot_ >= 0) {
    slots.release(std::exchange(slot_, -1),
                  window().first(static_cast<size_t>(std::exchange(cached_length_, 0))),
                  generation_->prefix_scope);
  }
  chooser_.reset();
  top_logprobs_.reset();
  held_logits_ = {};
  held_maxima_ = {};
  if (finished()) assistant_.reset();
}

Readiness LiveSequence::readiness() {
  if (away_.load(std::memory_order_acquire)) return Readiness::kAway;
  if (assistant_ && assistant_->is_drafting()) return Readiness::kWaiting;
  if (!streamed_) return Readiness::kReady;
  // A paused text goes on when half has been read: one that lost its slot is not recomputed for every token
  // that its reader takes.
  const int64_t limit = paused_ ? options_.read_ahead / 2 : options_.read_ahead;
  // paused_ is set before the check: a reader that takes tokens meanwhile then wakes the loop.
  paused_ = true;
  paused_ = unread_tokens_ > limit;
  return paused_ ? Readiness::kPaused : Readiness::kReady;
}

bool LiveSequence::mark_read(int64_t tokens) {
  unread_tokens_ -= tokens;
  return paused_;
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

std::span<const int32_t> LiveSequence::drafts(int64_t limit) {
  const auto room = options_.n_positions - static_cast<int64_t>(window().size());
  const auto wanted = generation_->stop.max_new_tokens - static_cast<int64_t>(output().size()) - 1;
  const int64_t most = std::max<int64_t>(0, std::min({limit, room, wanted}));
  if (prompt_lookup_) {
    const std::span<const int32_t> found = prompt_lookup_->propose(most);
    drafts_.assign(found.begin(), found.end());
  } else if (assistant_) {
    assistant_->take_draft(drafts_, most);
  }
  return drafts_;
}

void LiveSequence::request_draft() {
  if (!assistant_ || finished()) return;
  const auto room = options_.n_positions - static_cast<int64_t>(window().size());
  const auto wanted = generation_->stop.max_new_tokens - static_cast<int64_t>(output().size()) - 1;
  assistant_->request_draft(history(), std::min(room, wanted));
}

void LiveSequence::plan(StepPlan& plan) {
  std::span<const int32_t> tokens = pending_tokens();
  const int64_t rows = plan.rows();
  int64_t room = plan.room();
  if (room <= 0) return;
  const bool reaches_end = static_cast<int64_t>(tokens.size()) <= room;
  if (reaches_end && rows <= 0) return;
  if (!reaches_end) tokens = tokens.first(static_cast<size_t>(room));
  drafts_.clear();
  std::span<const int32_t> guessed;
  if (reaches_end && tokens.size() == 1) guessed = drafts(std::min(room, rows) - 1);
  const auto wanted = reaches_end ? static_cast<int64_t>(guessed.size()) + 1 : 0;
  plan.add(slot_, cached_length_, tokens, wanted, guessed);
}

void LiveSequence::use(const StepResults& results) {
  const PlannedPart& part = results.parts().front();
  cached_length_ += part.tokens - static_cast<int64_t>(drafts_.size());
  if (part.wanted == 0) return;
  if (request_.hook) {
    hold_rows(results);
    away_.store(true, std::memory_order_release);
    return;
  }
  choose_all([&](int64_t i) {
    return std::pair(results.logits(part.first_row + i), results.maxima(part.first_row + i));
  });
}

void LiveSequence::hold_rows(const StepResults& results) {
  const PlannedPart& part = results.parts().front();
  held_logits_.clear();
  held_maxima_.clear();
  for (int64_t i = 0; i < part.wanted; ++i) {
    const std::span<const float> logits = results.logits(part.first_row + i);
    const std::span<const float> maxima = results.maxima(part.first_row + i);
    held_logits_.insert(held_logits_.end(), logits.begin(), logits.end());
    held_maxima_.insert(held_maxima_.end(), maxima.begin(), maxima.end());
  }
}

void LiveSequence::run_hook() {
  struct Back {
    std::atomic<bool>& away;
    ~Back() { away.store(false, std::memory_order_release); }
  } const back{away_};
  const auto vocabulary = static_cast<size_t>(options_.vocab_size);
  const size_t maxima = held_maxima_.size() * vocabulary / std::max<size_t>(1, held_logits_.size());
  choose_all([&](int64_t i) {
    const auto row = static_cast<size_t>(i);
    return std::pair(std::span<const float>(held_logits_).subspan(row * vocabulary, vocabulary),
                     std::span<const float>(held_maxima_).subspan(row * maxima, maxima));
  });
}

void LiveSequence::drop_hook() {
  --cached_length_;  // the last token is computed again, for its logits
  away_.store(false, std::memory_order_release);
}

template <typename Rows>
void LiveSequence::choose_all(const Rows& rows) {
  // A draft is right exactly when it is the token that would have been chosen without it: see TokenChooser.
  const auto drafts = static_cast<int64_t>(drafts_.size());
  int64_t accepted = 0;
  for (;;) {
    const auto [scores, maxima] = rows(accepted);
    const int32_t token = choose_next(scores, maxima);
    if (finished() || accepted == drafts || token != drafts_[static_cast<size_t>(accepted)]) break;
    ++accepted;
  }
  cached_length_ += accepted;
  gains_.drafted += drafts;
  gains_.accepted += accepted;
  if (drafts > 0 && prompt_lookup_) prompt_lookup_->accept(accepted);
  if (drafts > 0 && assistant_) assistant_->accept(accepted);
  request_draft();
}

int32_t LiveSequence::choose_next(std::span<const float> scores, std::span<const float> maxima) {
  const uint32_t* allowed = nullptr;
  if (request_.hook) allowed = request_.hook->allowed_tokens(history(), options_.vocab_size);
  const bool want_logprob = generation_->logprobs == 0;  // else it comes with the likeliest
  const TokenChooser::Choice choice =
      chooser_->choose(scores, history(), allowed, want_logprob, request_.hook.get(), maxima);
  if (choice.token == TokenChooser::kNoToken) {
    finish(FinishReason::kConstraint);
    return choice.token;
  }
  if (want_logprob) logprobs_.chosen.push_back(choice.logprob);
  if (top_logprobs_) record_likeliest(scores, choice.token);
  append(choice.token);
  return choice.token;
}

void LiveSequence::record_likeliest(std::span<const float> scores, int32_t chosen) {
  for (const TokenLogprob& best : top_logprobs_->find(scores)) {
    logprobs_.top_ids.push_back(best.token);
    logprobs_.top_values.push_back(best.logprob);
  }
  logprobs_.chosen.push_back(top_logprobs_->log_probability(scores[static_cast<size_t>(chosen)]));
}

void LiveSequence::append(int32_t token) {
  last_token_ = Clock::now();
  if (output().empty()) first_token_ = last_token_;
  tokens_.push_back(token);
  ++gains_.chosen;
  if (static_cast<int64_t>(tokens_.size()) > max_length(request_, *generation_)) {
    prompt_lookup_.reset();  // its tables are full
  }
  if (prompt_lookup_) prompt_lookup_->append({&token, 1});
  const StopOptions& stop = generation_->stop;
  if (stop_matcher_ && stop_matcher_->feed((*stop.token_bytes)[token])) finish(FinishReason::kStop);
  if (std::ranges::find(stop.eos_token_ids, token) != stop.eos_token_ids.end()) finish(FinishReason::kEos);
  if (!finished() && request_.hook && request_.hook->is_complete(history())) finish(FinishReason::kStop);
  const bool at_window_end = window_is_full() && !generation_->slide;
  const bool at_limit = static_cast<int64_t>(output().size()) >= stop.max_new_tokens;
  if (!finished() && (at_limit || at_window_end)) finish(FinishReason::kLength);
}

TokenGains LiveSequence::take_gains() { return std::exchange(gains_, {}); }

bool LiveSequence::report(Mailbox& mailbox, int64_t index) {
  if (!streamed_) return false;
  const std::span<const int32_t> fresh = output().subspan(reported_tokens_);
  if (fresh.empty() && (!finished() || reported_end_)) return false;
  reported_end_ = finished();
  unread_tokens_ += static_cast<int64_t>(fresh.size());
  Mailbox::Report report;
  report.index = index;
  report.tokens = fresh;
  report.reason = finish_reason_;
  report.safe_bytes = safe_bytes();
  if (generation_->logprobs >= 0) {
    report.chosen = std::span<const float>(logprobs_.chosen).last(fresh.size());
    report.top_ids = std::span<const int32_t>(logprobs_.top_ids).subspan(reported_likeliest_);
    report.top_values = std::span<const float>(logprobs_.top_values).subspan(reported_likeliest_);
  }
  reported_tokens_ += fresh.size();
  reported_likeliest_ = logprobs_.top_ids.size();
  mailbox.put(report);
  return true;
}

std::optional<int64_t> LiveSequence::safe_bytes() const {
  if (!stop_matcher_) return std::nullopt;
  return finished() ? stop_matcher_->kept_bytes() : stop_matcher_->safe_bytes();
}

TextResult LiveSequence::result() const {
  const std::span<const int32_t> tokens = output();
  const auto seconds = [this](Clock::time_point time) {
    return std::chrono::duration<double>(time - begun_).count();
  };
  return {.tokens = {tokens.begin(), tokens.end()},
          .finish_reason = finish_reason_,
          .kept_bytes = safe_bytes(),
          .cached_tokens = std::max<int64_t>(0, reused_tokens_),
          .logprobs = logprobs_,
          .score = 0,
          .started_seconds = seconds(started_),
          .first_token_seconds = seconds(first_token_),
          .last_token_seconds = seconds(last_token_)};
}

}  // namespace gpt2fast
