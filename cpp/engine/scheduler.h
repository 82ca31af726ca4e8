// THE HOT LOOP: all work of all callers as one stream of steps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/call.h"
#include "engine/engine_counters.h"
#include "engine/hook_thread.h"
#include "engine/interrupt_guard.h"
#include "engine/participant.h"
#include "engine/slot_pool.h"
#include "engine/step_budget.h"
#include "engine/step_plan.h"
#include "engine/step_runner.h"
#include "engine/waker.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

// Who runs the loop: while there is one call, attended by a thread that waits for it, that thread does, and
// pays no switch of threads. Otherwise a thread of the scheduler's own does, which sleeps while nothing is to
// be done. Never both at once.
class Scheduler {
 public:
  Scheduler(StepRunner& runner, const EngineOptions& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Throws BusyError when too many texts wait (`bounded`), ClosedError after close().
  void submit(const std::shared_ptr<Call>& call, bool bounded);

  // Returns when the call is finished or, with `or_progress`, has something to report; runs its hooks. Throws
  // Interrupted when `interrupted` says so.
  void wait(Call& call, bool or_progress, const InterruptCheck& interrupted);
  // After Call::cancel(): returns when nothing in the loop refers to the call. In a hook or signal handler,
  // at once.
  void settle(Call& call);

  // Tells the loop that something has changed: a reader has taken tokens, or a draft is ready.
  void wake();
  const std::shared_ptr<Waker>& waker() const { return waker_; }

  void clear_prefix_cache();
  EngineStats stats() const { return counters_.read(); }

  // Ends every call, with an error or `quietly` as if it had been cancelled, and the scheduler's threads.
  void close(bool quietly = false);

 private:
  // A participant in the loop.
  struct Entry {
    Call* call = nullptr;
    Participant* participant = nullptr;
    int64_t index = 0;  // in the call
    bool had_slot = false;
    // Valid while a step is made: the tokens it has to read, and its parts of the step.
    int64_t pending = 0;
    int64_t first_part = 0;
    int64_t parts = 0;
    // The number of the step in which its prompt last had the first share.
    uint64_t served = 0;
  };

  // Makes one turn of the loop. Returns whether anything was done. Throws Interrupted when `guard` (null:
  // none) fires. Lists get their memory when calls arrive: if there is none, that call alone fails.
  bool turn(InterruptGuard* guard);
  void clear_if_wanted();
  void take_incoming();
  void make_room_for_call(Call& call);
  void refuse(const std::shared_ptr<Call>& call) noexcept;
  void retire();
  bool retire_entry(const Entry& entry, bool live);
  static bool withdraw_hook(const Entry& entry);
  void finish_entry(const Entry& entry, bool live);
  void finish_call(Call& call);
  void admit();
  bool make_room(int64_t slots);
  std::vector<Entry>::iterator make_places(Clock::time_point turn, int64_t texts);
  void count_waiting(const Participant& participant, int64_t change);
  void plan();
  void plan_prompts(bool streaming);
  int64_t room_beside_short_prompts(int64_t room) const;
  void plan_entry(Entry& entry, int64_t tokens, int64_t kept_back);
  bool run_step(InterruptGuard* guard);
  bool all_planned_ended() const;
  bool gives_way();
  void use();
  void use_results(const Entry& entry) noexcept;
  void hand_over(const Entry& entry, HookWork* hook) noexcept;
  void report(const Entry& entry);
  void add_news(Call& call);
  void deliver();
  void fail(Call& call) noexcept;
  bool look_at_calls();

  bool try_drive(const Call& call);
  // `own`: the call whose thread has driven the loop; null if another thread has.
  void stop_driving(const Call* own);
  bool is_lone_locked() const;
  bool loop_has_work_locked() const;
  void start_loop_locked();
  void run_loop();
  void check_room_locked();

  StepRunner& runner_;
  const EngineOptions& options_;
  SlotPool slots_;
  StepBudget budget_;
  StepPlan plan_;
  std::shared_ptr<Waker> waker_;
  HookThread hooks_;
  EngineCounters counters_;

  // The loop's own state, used only by the thread that drives.
  std::vector<std::shared_ptr<Call>> arrived_;
  std::vector<std::shared_ptr<Call>> calls_;
  std::vector<std::shared_ptr<Call>> finished_;  // in this turn
  std::vector<Entry> live_;                      // those that hold slots
  std::vector<Entry> waiting_;                   // the others; the next in turn is the last
  std::vector<Entry> displaced_;                 // those that lost their slots in this turn
  std::vector<Participant*> holders_;            // the participants of live_
  std::vector<Entry*> planned_;                  // those that have parts in the step
  std::vector<Entry*> prompts_;                  // those that read prompts, while a step is planned
  std::vector<Call*> news_;                      // calls whose readers have something to take
  int64_t decoded_tokens_ = 0;                   // in the step, without those of prompts
  int64_t shortest_prompt_ = 0;  // in the step, by what it had left; 0: the step never gives way
  bool gave_way_ = false;        // whether the last step did
  Clock::time_point step_begun_;
  uint64_t served_ = 0;
  bool changed_ = false;                      // whether this turn has done anything
  bool may_be_done_ = false;                  // whether a waiting text may be, without its call having ended
  Clock::time_point now_;                     // when this turn last looked at the clock
  Clock::time_point next_deadline_ = kNever;  // the earliest of all calls, after now_

  // Shared by all threads.
  std::mutex mutex_;
  std::condition_variable loop_changed_;
  std::condition_variable driver_changed_;
  std::vector<std::shared_ptr<Call>> incoming_;
  std::vector<std::shared_ptr<Call>> active_;  // calls that are not finished
  bool driving_ = false;                       // whether a thread makes a turn
  bool woken_ = false;
  bool closed_ = false;
  std::atomic<bool> clear_wanted_ = false;  // whether the prefix cache is to be cleared
  int64_t lone_turns_ = 0;  // turns of the loop's thread for a caller that could make them itself
  std::thread loop_;
  std::mutex closing_mutex_;  // one thread joins the others
  // Whether a call may have been cancelled, or has come. Only then does the loop look at waiting texts.
  std::atomic<bool> look_at_waiting_ = false;
  // Length of the shortest prompt among calls that the loop has not taken yet.
  std::atomic<int64_t> shortest_incoming_ = kNoPrompt;
};

}  // namespace gpt2fast
