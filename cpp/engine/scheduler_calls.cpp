// How calls come into the scheduler's loop, and how they leave it.
#include <algorithm>
#include <functional>
#include <utility>

#include "engine/room.h"
#include "engine/scheduler.h"

namespace gpt2fast {

namespace {

// Tokens of each streamed text that a mailbox has room for, beyond those that its reader may be behind.
constexpr int64_t kSpareTokens = 16;

}  // namespace

void Scheduler::take_incoming() {
  {
    const std::lock_guard lock(mutex_);
    arrived_.swap(incoming_);
    shortest_incoming_ = kNoPrompt;
  }
  for (std::shared_ptr<Call>& call : arrived_) {
    const auto texts = static_cast<int64_t>(call->participants.size());
    changed_ = true;
    try {
      make_room_for_call(*call);
    } catch (...) {
      refuse(call);
      continue;
    }
    const auto first = make_places(call->turn, texts);
    for (int64_t i = 0; i < texts; ++i) {
      *(first + (texts - 1 - i)) = {
          .call = call.get(), .participant = call->participants[static_cast<size_t>(i)].get(), .index = i};
    }
    calls_.push_back(call);
    if (texts == 0) finish_call(*call);
  }
  if (!arrived_.empty()) look_at_waiting_ = may_be_done_ = true;
  arrived_.clear();
}

void Scheduler::make_room_for_call(Call& call) {
  const size_t texts = call.participants.size();
  if (call.streamed) call.mailbox.reserve(static_cast<int64_t>(texts), options_.read_ahead + kSpareTokens);
  make_room_for(calls_, 1);
  make_room_for(finished_, calls_.size() + 1);
  make_room_for(news_, calls_.size() + 1);
  make_room_for(waiting_, live_.size() + texts);  // texts that lose their slots wait again
}

// Ends a call for which there is no memory.
void Scheduler::refuse(const std::shared_ptr<Call>& call) noexcept {
  for (const auto& participant : call->participants) count_waiting(*participant, -1);
  counters_.failed.add(1);
  {
    const std::lock_guard lock(mutex_);
    std::erase(active_, call);
  }
  call->mailbox.finish(std::current_exception());
  call->mailbox.notify();
}

// Makes places for so many waiting texts of a turn, behind all that have waited as long. Returns the last
// one's.
std::vector<Scheduler::Entry>::iterator Scheduler::make_places(Clock::time_point turn, int64_t texts) {
  const auto turn_of = [](const Entry& other) { return other.call->turn; };
  const auto place = std::ranges::lower_bound(waiting_, turn, std::greater<>(), turn_of);
  return waiting_.insert(place, static_cast<size_t>(texts), Entry());
}

void Scheduler::retire() {
  now_ = Clock::now();
  std::erase_if(live_, [this](const Entry& entry) { return retire_entry(entry, true); });
  if (look_at_waiting_.exchange(false) || now_ >= next_deadline_) {
    // There may be very many, so they are looked at for a reason.
    const bool some_ended = look_at_calls();
    if (std::exchange(may_be_done_, false) || some_ended) {
      std::erase_if(waiting_, [this](const Entry& entry) { return retire_entry(entry, false); });
    }
  }
  counters_.free_slots.set(slots_.free());
  counters_.running.set(static_cast<int64_t>(live_.size()));
}

bool Scheduler::retire_entry(const Entry& entry, bool live) {
  Participant& participant = *entry.participant;
  const FinishReason reason = entry.call->end_reason(now_);
  if (live && participant.readiness() == Readiness::kAway &&
      (reason == FinishReason::kNone || !withdraw_hook(entry))) {
    return false;
  }
  if (!participant.done() && reason != FinishReason::kNone) {
    participant.end(reason);
    if (reason == FinishReason::kTime) counters_.timed_out.add(1);
    if (reason == FinishReason::kCancelled && !entry.call->error()) counters_.cancelled.add(1);
  }
  const bool done = participant.done();
  if (live || done) report(entry);
  if (done) finish_entry(entry, live);
  return done;
}

// Takes back a hook that no thread has begun to run.
bool Scheduler::withdraw_hook(const Entry& entry) {
  HookWork* const hook = entry.participant->hook();
  if (hook == nullptr || !entry.call->mailbox.withdraw_hook(hook)) return false;
  entry.participant->drop_hook();
  return true;
}

// Counts a text as gone before its caller can see that its call has ended.
void Scheduler::finish_entry(const Entry& entry, bool live) {
  entry.participant->release(slots_);
  counters_.free_slots.set(slots_.free());
  if (live) counters_.running.add(-1);
  if (live && entry.participant->ends_others()) look_at_waiting_ = may_be_done_ = true;
  if (!entry.had_slot) count_waiting(*entry.participant, -1);
  counters_.finished.add(1);
  changed_ = true;
  if (--entry.call->unfinished == 0) finish_call(*entry.call);
}

void Scheduler::finish_call(Call& call) {
  const std::exception_ptr error = call.error();
  if (error) counters_.failed.add(1);
  const auto is_it = [&call](const std::shared_ptr<Call>& other) { return other.get() == &call; };
  const auto place = std::ranges::find_if(calls_, is_it);  // where it has been since it came
  finished_.push_back(std::move(*place));
  calls_.erase(place);
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(active_, is_it);
  }
  call.mailbox.finish(error);
  add_news(call);
}

// Fails a call with the exception being handled. Its waiting texts are to end, too.
void Scheduler::fail(Call& call) noexcept {
  call.fail(std::current_exception());
  look_at_waiting_ = true;
}

// Finds the next deadline, and whether a call was cancelled, has failed or is late. Deadlines that have
// passed are left out: their texts end, or wait for a hook.
bool Scheduler::look_at_calls() {
  next_deadline_ = kNever;
  bool some_ended = false;
  for (const auto& call : calls_) {
    if (call->deadline > now_) next_deadline_ = std::min(next_deadline_, call->deadline);
    some_ended = some_ended || call->end_reason(now_) != FinishReason::kNone;
  }
  return some_ended;
}

}  // namespace gpt2fast
