// What an engine has done: counted by the thread that runs its loop, read by any thread at any time.
#pragma once

#include <atomic>
#include <cstdint>

#include "gpt2fast/engine.h"

namespace gpt2fast {

class EngineCounters {
 public:
  class Counter {
   public:
    void add(int64_t amount) { value_.fetch_add(amount, std::memory_order_relaxed); }
    void set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
    int64_t get() const { return value_.load(std::memory_order_relaxed); }

   private:
    std::atomic<int64_t> value_ = 0;
  };

  EngineStats read() const {
    return {.running = running.get(),
            .waiting = waiting.get(),
            .slots = slots.get(),
            .slots_used = slots.get() - free_slots.get(),
            .calls = calls.get(),
            .finished = finished.get(),
            .cancelled = cancelled.get(),
            .timed_out = timed_out.get(),
            .failed = failed.get(),
            .refused = refused.get(),
            .recomputed = recomputed.get(),
            .prompt_tokens = prompt_tokens.get(),
            .generated_tokens = generated_tokens.get(),
            .prefix_queries = prefix_queries.get(),
            .prefix_hits = prefix_hits.get(),
            .drafted_tokens = drafted_tokens.get(),
            .accepted_tokens = accepted_tokens.get(),
            .steps = steps.get(),
            .step_rows = step_rows.get(),
            .step_seconds = 1e-9 * static_cast<double>(step_nanoseconds.get())};
  }

  // The fields of EngineStats, which explains them.
  Counter running, waiting, slots, free_slots, calls, finished, cancelled, timed_out, failed, refused,
      recomputed;
  Counter prompt_tokens, generated_tokens, prefix_queries, prefix_hits, drafted_tokens, accepted_tokens;
  Counter steps, step_rows, step_nanoseconds;
  // What the waiting texts need: several slots for a search with beams.
  Counter waiting_slots;
};

}  // namespace gpt2fast
