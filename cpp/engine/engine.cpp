// THE HOT LOOP: plan a step over the live sequences, run it, choose a token for each.
#include "engine/engine.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/common_prefix.h"
#include "gpt2fast/errors.h"

namespace gpt2fast {

namespace {

// How often a caller's InterruptCheck is asked at most.
constexpr auto kInterruptInterval = std::chrono::milliseconds(10);

// A prefix shared with a sequence that is still reading its prompt is worth waiting for from this length on.
constexpr int64_t kMinSharedPrefix = 16;

}  // namespace

bool RateLimitedCheck::operator()() {
  const Clock::time_point now = Clock::now();
  if (!check_ || now - last_ < kInterruptInterval) return false;
  last_ = now;
  fired_ = check_();
  return fired_;
}

std::shared_ptr<Engine> Engine::create(const EngineOptions& options) {
  return std::make_shared<EngineImpl>(options);
}

EngineImpl::EngineImpl(const EngineOptions& options)
    : options_(options), stepper_(options_), pool_(stepper_.cache(), options_.prefix_cache_bytes) {}

int64_t EngineImpl::cache_bytes_per_sequence() const { return stepper_.cache().bytes_per_slot(); }

void EngineImpl::check_prefix(const Prefix& prefix) const {
  check_token_ids(prefix.tokens, options_.vocab_size);
  const size_t elements = 2 * prefix.tokens.size() * static_cast<size_t>(stepper_.width());
  const auto fits = [elements](const std::vector<float>& layer) { return layer.size() == elements; };
  if (static_cast<int64_t>(prefix.tokens.size()) > options_.n_positions ||
      static_cast<int64_t>(prefix.layers.size()) != options_.n_layer ||
      !std::all_of(prefix.layers.begin(), prefix.layers.end(), fits)) {
    throw std::invalid_argument("the prefix does not have this model's sizes");
  }
}

int64_t EngineImpl::restore_prefix(const Prefix* prefix, std::span<const int32_t> prompt, int64_t slot,
                                   int64_t cached_length) {
  if (prefix == nullptr) return cached_length;
  const int64_t length =
      std::min(common_prefix(prefix->tokens, prompt), static_cast<int64_t>(prompt.size()) - 1);
  if (length <= cached_length) return cached_length;
  KvCache& cache = stepper_.cache();
  const auto stored = static_cast<int64_t>(prefix->tokens.size());
  for (int64_t layer = 0; layer < cache.layers(); ++layer) {
    const float* keys = prefix->layers[static_cast<size_t>(layer)].data();
    cache.restore(layer, slot, length, stored, keys, keys + stored * n_embd());
  }
  return length;
}

std::unique_ptr<Run> EngineImpl::start(std::vector<Request> requests) {
  return std::make_unique<GenerationRun>(shared_from_this(), std::move(requests));
}

GenerationRun::GenerationRun(std::shared_ptr<EngineImpl> engine, std::vector<Request> requests)
    : engine_(std::move(engine)) {
  const EngineOptions& options = engine_->options();
  int64_t drafts = 0;
  for (Request& request : requests) {
    drafts = std::max<int64_t>({drafts, request.prompt_lookup_num_tokens, request.num_assistant_tokens});
    if (request.prefix) engine_->check_prefix(*request.prefix);
    has_deadlines_ = has_deadlines_ || request.stop.max_seconds > 0;
    sequences_.push_back(std::make_unique<LiveSequence>(std::move(request), options));
  }
  const auto live = static_cast<size_t>(options.max_sequences);
  wanted_.reserve(static_cast<size_t>(engine_->stepper().max_logits_rows()));
  changed_.reserve(sequences_.size());
  parts_.reserve(live);
  places_.reserve(live);
  draft_tokens_.reserve(live * static_cast<size_t>(drafts + 1));
}

GenerationRun::~GenerationRun() { close(); }

void GenerationRun::close() {
  const std::lock_guard lock(mutex_);
  end_unfinished(FinishReason::kCancelled);
}

bool GenerationRun::done() const {
  return std::all_of(sequences_.begin(), sequences_.end(),
                     [](const auto& sequence) { return sequence->finished(); });
}

std::vector<Progress> GenerationRun::advance(const InterruptCheck& interrupted) {
  const std::lock_guard lock(mutex_);
  const SlotPool::Working working(engine_->pool());
  std::vector<Progress> progress;
  // A step that reads prompts alone changes nothing that a caller sees.
  while (progress.empty() && !done()) {
    step(interrupted);
    progress.reserve(changed_.size());
    for (const int64_t index : changed_) {
      LiveSequence& sequence = *sequences_[static_cast<size_t>(index)];
      const std::span<const int32_t> tokens = sequence.take_new_output();
      progress.push_back(
          {index, {tokens.begin(), tokens.end()}, sequence.finish_reason(), sequence.safe_bytes()});
    }
  }
  return progress;
}

void GenerationRun::finish(const InterruptCheck& interrupted) {
  const std::lock_guard lock(mutex_);
  const SlotPool::Working working(engine_->pool());
  while (!done()) step(interrupted);
}

void GenerationRun::step(const InterruptCheck& interrupted) {
  changed_.clear();
  RateLimitedCheck caller_interrupts(interrupted, last_interrupt_check_);
  const auto expired = [this] {
    const Clock::time_point now = Clock::now();
    const auto is_late = [now](const auto& one) { return !one->finished() && one->out_of_time(now); };
    return has_deadlines_ && std::any_of(sequences_.begin(), sequences_.end(), is_late);
  };
  // Captures little enough to be held without an allocation.
  const InterruptCheck stop = [&expired, &caller_interrupts] { return caller_interrupts() || expired(); };
  const InterruptCheck cancelled_or_stop = [this, &stop] { return cancelled_ || stop(); };
  try {
    if (cancelled_) throw Interrupted();
    end_expired();
    run_step(cancelled_or_stop);
  } catch (const Interrupted&) {
    // A cancelled or expired run ends here, with what it has; the caller's own interrupt goes up.
    if (caller_interrupts.fired()) throw;
    if (cancelled_) {
      end_unfinished(FinishReason::kCancelled);
    } else if (expired()) {
      end_expired();
    } else {
      throw;
    }
  } catch (...) {
    end_unfinished(FinishReason::kCancelled);
    throw;
  }
}

void GenerationRun::run_step(const InterruptCheck& stop) {
  admit(stop);
  plan(stop);
  if (parts_.empty()) return;
  const std::lock_guard step_lock(engine_->stepper().mutex());
  engine_->stepper().step(parts_, stop);
  use_results();
}

void GenerationRun::admit(const InterruptCheck& interrupted) {
  for (const auto& sequence : sequences_) {
    if (sequence->finished() || sequence->has_slot()) continue;
    if (!admit_one(*sequence, interrupted)) return;
  }
}

bool GenerationRun::admit_one(LiveSequence& sequence, const InterruptCheck& interrupted) {
  const std::span<const int32_t> prompt = sequence.window();
  const LiveSequence* donor = nullptr;
  int64_t donated = 0;
  bool any_live = false;
  for (const auto& other : sequences_) {
    if (!other->has_slot()) continue;
    any_live = true;
    if (!sequence.use_prefix_cache()) continue;
    const int64_t shared =
        std::min(common_prefix(other->window(), prompt), static_cast<int64_t>(prompt.size()) - 1);
    if (shared >= kMinSharedPrefix && other->cached_length() < shared) return true;  // its turn comes
    if (shared > donated) {
      donor = other.get();
      donated = shared;
    }
  }
  SlotPool& pool = engine_->pool();
  const bool use_prefix_cache = sequence.use_prefix_cache();
  // A run that has live sequences never waits: callers that hold slots and wait for more could block each
  // other.
  SlotPool::Grant grant = any_live ? pool.try_acquire(prompt, use_prefix_cache)
                                   : pool.acquire(prompt, use_prefix_cache, interrupted);
  if (grant.slot < 0) return false;
  donated = donor != nullptr ? std::min(donated, donor->cached_length()) : 0;
  if (donated > grant.cached_length) {
    engine_->stepper().cache().copy(donor->slot(), grant.slot, donated);
    grant.cached_length = donated;
  }
  grant.cached_length = engine_->restore_prefix(sequence.prefix(), prompt, grant.slot, grant.cached_length);
  sequence.give_slot(grant.slot, grant.cached_length);
  return true;
}

void GenerationRun::plan(const InterruptCheck& stop) {
  parts_.clear();
  places_.clear();
  draft_tokens_.clear();
  wanted_.clear();
  int64_t room = engine_->stepper().max_tokens();
  int64_t rows = engine_->stepper().max_logits_rows();
  // Sequences that only want their next token go first: a long prompt beside them is cut, never they.
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < sequences_.size(); ++i) {
      LiveSequence& sequence = *sequences_[i];
      if (sequence.finished() || !sequence.has_slot()) continue;
      if ((sequence.pending_tokens().size() == 1) == decoding) plan_sequence(i, room, rows, stop);
    }
  }
}

void GenerationRun::plan_sequence(size_t index, int64_t& room, int64_t& rows, const InterruptCheck& stop) {
  if (room == 0 || rows == 0) return;
  LiveSequence& sequence = *sequences_[index];
  std::span<const int32_t> tokens = sequence.pending_tokens();
  Place place{.sequence = index, .drafts = 0, .first_row = -1};
  if (static_cast<int64_t>(tokens.size()) > room) tokens = tokens.first(static_cast<size_t>(room));
  const bool reaches_end = tokens.size() == sequence.pending_tokens().size();
  if (reaches_end && tokens.size() == 1) {
    const std::span<const int32_t> drafts = sequence.propose_drafts(std::min(room, rows) - 1, stop);
    if (!drafts.empty()) {
      const size_t start = draft_tokens_.size();
      draft_tokens_.push_back(tokens[0]);
      draft_tokens_.insert(draft_tokens_.end(), drafts.begin(), drafts.end());
      tokens = std::span(draft_tokens_).subspan(start);
      place.drafts = static_cast<int64_t>(drafts.size());
    }
  }
  const size_t first_wanted = wanted_.size();
  if (reaches_end) {
    place.first_row = static_cast<int64_t>(first_wanted);
    const auto count = static_cast<int32_t>(tokens.size());
    for (auto i = count - 1 - static_cast<int32_t>(place.drafts); i < count; ++i) wanted_.push_back(i);
    rows -= place.drafts + 1;
  }
  room -= static_cast<int64_t>(tokens.size());
  parts_.push_back(
      {sequence.slot(), sequence.cached_length(), tokens, std::span(wanted_).subspan(first_wanted)});
  places_.push_back(place);
}

void GenerationRun::use_results() {
  for (size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    const std::span<const int32_t> fed = parts_[i].tokens;
    LiveSequence& sequence = *sequences_[place.sequence];
    sequence.advance_cache(static_cast<int64_t>(fed.size()) - place.drafts);
    if (place.first_row < 0) continue;
    // A draft is right exactly when it is the token that would have been chosen without it: see TokenChooser.
    const auto drafts = fed.last(static_cast<size_t>(place.drafts));
    int64_t accepted = 0;
    for (;;) {
      Stepper& stepper = engine_->stepper();
      const int64_t row = place.first_row + accepted;
      const int32_t token = sequence.choose_next(stepper.logits(row), stepper.maxima(row));
      if (sequence.finished() || accepted == place.drafts || token != drafts[static_cast<size_t>(accepted)])
        break;
      ++accepted;
    }
    sequence.advance_cache(accepted);
    sequence.report_drafts(place.drafts, accepted);
    changed_.push_back(static_cast<int64_t>(place.sequence));
    if (sequence.finished()) release(sequence);
  }
}

void GenerationRun::end_expired() {
  const Clock::time_point now = Clock::now();
  for (size_t i = 0; i < sequences_.size(); ++i) {
    LiveSequence& sequence = *sequences_[i];
    if (sequence.finished() || !sequence.out_of_time(now)) continue;
    sequence.finish(FinishReason::kTime);
    release(sequence);
    changed_.push_back(static_cast<int64_t>(i));
  }
}

void GenerationRun::end_unfinished(FinishReason reason) {
  for (size_t i = 0; i < sequences_.size(); ++i) {
    LiveSequence& sequence = *sequences_[i];
    if (!sequence.finished()) {
      sequence.finish(reason);
      changed_.push_back(static_cast<int64_t>(i));
    }
    release(sequence);
  }
}

void GenerationRun::release(LiveSequence& sequence) {
  if (!sequence.has_slot()) return;
  const std::span<const int32_t> cached = sequence.cached_tokens();
  engine_->pool().release(sequence.take_slot(), cached);
}

std::vector<int32_t> GenerationRun::output(int64_t index) const {
  const std::lock_guard lock(mutex_);
  const auto output = sequences_.at(static_cast<size_t>(index))->output();
  return {output.begin(), output.end()};
}

FinishReason GenerationRun::finish_reason(int64_t index) const {
  const std::lock_guard lock(mutex_);
  return sequences_.at(static_cast<size_t>(index))->finish_reason();
}

std::optional<int64_t> GenerationRun::safe_bytes(int64_t index) const {
  const std::lock_guard lock(mutex_);
  return sequences_.at(static_cast<size_t>(index))->safe_bytes();
}

int64_t GenerationRun::cached_tokens(int64_t index) const {
  const std::lock_guard lock(mutex_);
  return sequences_.at(static_cast<size_t>(index))->reused_tokens();
}

Logprobs GenerationRun::logprobs(int64_t index) const {
  const std::lock_guard lock(mutex_);
  return sequences_.at(static_cast<size_t>(index))->logprobs();
}

}  // namespace gpt2fast
