// The clock that deadlines are kept by.
#pragma once

#include <chrono>

namespace gpt2fast {

using Clock = std::chrono::steady_clock;

inline constexpr Clock::time_point kNever = Clock::time_point::max();

// The time after so many seconds; 0: kNever.
inline Clock::time_point deadline_after(double seconds) {
  if (!(seconds > 0)) return kNever;
  // Longer than any program runs, and short enough not to overflow the clock.
  constexpr double kLongest = 1e9;
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(
                            std::chrono::duration<double>(seconds < kLongest ? seconds : kLongest));
}

}  // namespace gpt2fast
