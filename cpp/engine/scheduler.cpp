// THE HOT LOOP: retire what ended, was cancelled or is late; admit; plan; step; use; deliver.
#include "engine/scheduler.h"

#include <algorithm>
#include <ranges>
#include <utility>

#include "engine/admission.h"
#include "gpt2fast/errors.h"

namespace gpt2fast {

namespace {

// In a turn, at most this many texts are considered that wait to share what others are computing.
constexpr int64_t kMaxDeferred = 64;

// Prompts shorter than this take hardly less time, so a step reads this much of others beside them.
constexpr int64_t kShortPrompt = 16;

// A step that reads prompts is abandoned for a prompt that has just come if each of its own has this many
// times as much left to read.
constexpr int64_t kMuchLonger = 4;

}  // namespace

bool Scheduler::turn(InterruptGuard* guard) {
  changed_ = false;
  clear_if_wanted();
  take_incoming();
  retire();
  admit();
  plan();
  deliver();
  if (plan_.empty()) return changed_;
  if (run_step(guard)) use();
  retire();
  deliver();
  return true;
}

void Scheduler::clear_if_wanted() {
  if (!clear_wanted_) return;
  slots_.clear_idle();
  {
    const std::lock_guard lock(mutex_);
    clear_wanted_ = false;
  }
  driver_changed_.notify_all();
}

void Scheduler::admit() {
  Admission admission(runner_.cache(), slots_, holders_);
  holders_.clear();
  for (const Entry& entry : live_) holders_.push_back(entry.participant);
  int64_t deferred = 0;
  for (size_t left = waiting_.size(); left > 0 && deferred < kMaxDeferred; --left) {
    Entry& entry = waiting_[left - 1];
    if (entry.participant->readiness() != Readiness::kReady || entry.call->is_left_alone()) continue;
    Admitted admitted = Admitted::kNoSlot;
    if (make_room(entry.participant->slots_needed())) {
      try {
        admitted = entry.participant->admit(admission);
      } catch (...) {
        fail(*entry.call);  // the next turn ends it, and releases what it has taken
        changed_ = true;
        continue;
      }
    }
    if (admitted == Admitted::kNoSlot && entry.participant->refused()) break;
    if (admitted == Admitted::kLater) ++deferred;
    if (admitted != Admitted::kYes) continue;
    if (!std::exchange(entry.had_slot, true)) count_waiting(*entry.participant, -1);
    entry.served = served_;  // it comes after those that have waited longer
    holders_.push_back(entry.participant);
    live_.push_back(entry);
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(left - 1));
    changed_ = true;
  }
  for (const Entry& entry : displaced_) *make_places(entry.call->turn, 1) = entry;
  displaced_.clear();
  counters_.prefix_queries.add(admission.prefix_queries());
  counters_.prefix_hits.add(admission.prefix_hits());
  counters_.free_slots.set(slots_.free());
  counters_.running.set(static_cast<int64_t>(live_.size()));
}

// Takes slots away from texts whose readers are behind, until this many are free. Those texts are computed
// again when their readers have caught up.
bool Scheduler::make_room(int64_t slots) {
  for (size_t i = 0; i < live_.size() && slots_.free() < slots;) {
    Entry entry = live_[i];
    const Readiness readiness = entry.participant->readiness();
    const bool left_alone = readiness == Readiness::kAway && entry.call->is_left_alone();
    if (readiness != Readiness::kPaused && !(left_alone && withdraw_hook(entry))) {
      ++i;
      continue;
    }
    entry.participant->release(slots_);
    std::erase(holders_, entry.participant);
    live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(i));
    displaced_.push_back(entry);
    counters_.recomputed.add(1);
    changed_ = true;
  }
  return slots_.free() >= slots;
}

// Texts being decoded go first, and each is sure of one token, however many drafts others have. Prompts get
// what is left, or less while texts are streamed.
void Scheduler::plan() {
  plan_.clear();
  planned_.clear();
  prompts_.clear();
  shortest_prompt_ = 0;
  int64_t kept_back = 0;
  for (Entry& entry : live_) {
    entry.parts = 0;
    entry.pending = -1;
    if (entry.participant->readiness() != Readiness::kReady || entry.participant->done()) continue;
    entry.pending = entry.participant->pending();
    if (entry.participant->decodes()) {
      kept_back += entry.participant->slots_needed();
    } else if (entry.pending > 0) {
      prompts_.push_back(&entry);
    }
  }
  // Drafts must leave a part of the step to prompts.
  const int64_t of_prompts =
      prompts_.empty() ? 0 : std::min(runner_.max_tokens() / 2, runner_.max_tokens() - kept_back);
  bool streaming = false;
  for (Entry& entry : live_) {
    if (entry.pending < 0 || !entry.participant->decodes()) continue;
    kept_back -= entry.participant->slots_needed();
    plan_entry(entry, runner_.max_tokens() - plan_.tokens() - of_prompts - kept_back, kept_back);
    streaming = streaming || entry.call->streamed;
  }
  decoded_tokens_ = plan_.tokens();
  if (!prompts_.empty()) plan_prompts(streaming);
}

// The prompt that has waited longest gets at least half of the room; the rest goes to the shortest first. So
// short prompts do not wait for long ones, and long ones make progress.
void Scheduler::plan_prompts(bool streaming) {
  int64_t room = runner_.max_tokens() - decoded_tokens_;
  if (streaming) {
    room = std::min(room, budget_.prompt_tokens(decoded_tokens_, static_cast<int64_t>(prompts_.size())));
  }
  Entry* const first = *std::ranges::min_element(prompts_, {}, &Entry::served);
  std::ranges::sort(prompts_, {}, &Entry::pending);
  if (!streaming) shortest_prompt_ = prompts_.front()->pending;
  room = room_beside_short_prompts(room);
  const int64_t reserved = prompts_.size() > 1 ? std::min(first->pending, (room + 1) / 2) : room;
  const auto left = [&] { return room - (plan_.tokens() - decoded_tokens_); };
  for (Entry* entry : prompts_) {
    if (entry != first) plan_entry(*entry, left() - reserved, 0);
  }
  plan_entry(*first, left(), 0);
  first->served = ++served_;
}

// Long prompts in a step must not delay the short ones in it: the room is limited to twice what these need.
int64_t Scheduler::room_beside_short_prompts(int64_t room) const {
  int64_t total = 0;
  for (const Entry* entry : prompts_) {
    const int64_t doubled = 2 * std::max(total, kShortPrompt);
    if (total > 0 && entry->pending > doubled) return std::min(room, doubled);
    total += entry->pending;
  }
  return room;
}

void Scheduler::plan_entry(Entry& entry, int64_t tokens, int64_t kept_back) {
  // There is a part left: others have at most one for each of their slots.
  plan_.open(tokens, kept_back);
  const auto before = static_cast<int64_t>(plan_.parts().size());
  try {
    entry.participant->plan(plan_);
  } catch (...) {
    fail(*entry.call);
    changed_ = true;  // the next turn ends it
  }
  entry.first_part = before;
  entry.parts = static_cast<int64_t>(plan_.parts().size()) - before;
  if (entry.parts > 0) planned_.push_back(&entry);
}

// Returns whether there are results to use.
bool Scheduler::run_step(InterruptGuard* guard) {
  const auto stop = [this, guard] {
    return (guard != nullptr && (*guard)()) || all_planned_ended() || gives_way();
  };
  step_begun_ = Clock::now();
  try {
    runner_.step(plan_.parts(), stop);
  } catch (const Interrupted&) {
    if (guard != nullptr && guard->fired()) throw;
    return false;
  } catch (...) {
    // The error belongs to no text in particular, so all of them get it.
    for (const Entry* entry : planned_) fail(*entry->call);
    return false;
  }
  gave_way_ = false;
  const auto time = Clock::now() - step_begun_;
  const int64_t prompt_tokens = plan_.tokens() - decoded_tokens_;
  budget_.observe(decoded_tokens_, prompt_tokens, std::chrono::duration<double>(time).count());
  counters_.prompt_tokens.add(prompt_tokens);
  counters_.steps.add(1);
  counters_.step_rows.add(static_cast<int64_t>(plan_.parts().size()));
  counters_.step_nanoseconds.add(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
  return true;
}

bool Scheduler::all_planned_ended() const {
  const Clock::time_point now = Clock::now();
  return std::ranges::all_of(
      planned_, [now](const Entry* entry) { return entry->call->end_reason(now) != FinishReason::kNone; });
}

// Whether a prompt has come that is much shorter than those in the step, and most of the step is still to be
// done. Never twice in a row, so that long prompts make progress.
bool Scheduler::gives_way() {
  const int64_t incoming = shortest_incoming_;
  const int64_t prompt_tokens = plan_.tokens() - decoded_tokens_;
  if (incoming > shortest_prompt_ / kMuchLonger || incoming > prompt_tokens / 2) return false;
  if (gave_way_ || slots_.free() == 0) return false;
  const std::chrono::duration<double> taken = Clock::now() - step_begun_;
  const double whole = budget_.prompt_seconds(prompt_tokens);
  gave_way_ = whole == 0 || taken.count() < whole / 2;
  return gave_way_;
}

// To choose tokens for many texts takes a good part of the time of their step, so its threads share that.
void Scheduler::use() {
  runner_.parallel().run(static_cast<int64_t>(planned_.size()), [this](int64_t index) noexcept {
    use_results(*planned_[static_cast<size_t>(index)]);
  });
  for (const Entry* entry : planned_) {
    if (HookWork* const hook = entry->participant->hook(); hook != nullptr) hand_over(*entry, hook);
  }
}

void Scheduler::use_results(const Entry& entry) noexcept {
  const auto parts =
      plan_.planned().subspan(static_cast<size_t>(entry.first_part), static_cast<size_t>(entry.parts));
  try {
    entry.participant->use(StepResults(runner_, parts));
  } catch (...) {
    fail(*entry.call);
  }
}

void Scheduler::hand_over(const Entry& entry, HookWork* hook) noexcept {
  try {
    entry.call->mailbox.put_hook(hook);
  } catch (...) {
    entry.participant->drop_hook();  // nobody would run it
    return fail(*entry.call);
  }
  try {
    if (!entry.call->attended)
      hooks_.add(*std::ranges::find(calls_, entry.call, &std::shared_ptr<Call>::get));
  } catch (...) {
    fail(*entry.call);  // the next turn takes the hook back
  }
  add_news(*entry.call);
}

void Scheduler::report(const Entry& entry) {
  const TokenGains gains = entry.participant->take_gains();
  if (gains.chosen > 0) counters_.generated_tokens.add(gains.chosen);
  if (gains.drafted > 0) counters_.drafted_tokens.add(gains.drafted);
  if (gains.accepted > 0) counters_.accepted_tokens.add(gains.accepted);
  if (!entry.call->streamed) return;
  try {
    if (entry.participant->report(entry.call->mailbox, entry.index)) add_news(*entry.call);
  } catch (...) {
    fail(*entry.call);
  }
}

void Scheduler::add_news(Call& call) {
  if (std::ranges::find(news_, &call) == news_.end()) news_.push_back(&call);
}

void Scheduler::deliver() {
  for (Call* call : news_) call->mailbox.notify();
  news_.clear();
  for (std::shared_ptr<Call>& call : finished_) {
    // If its caller has gone already, this thread would destroy it, and wait for the host's lock.
    if (call.use_count() == 1 && call->refers_to_host()) hooks_.let_go(std::move(call));
  }
  finished_.clear();
}

}  // namespace gpt2fast
