// What it costs to hand work to the pool: how much longer a run of one task a thread takes than such a task
// alone, for 2 threads up to the cores that the process may use; nanoseconds, the median of several rounds.
// What each further thread adds tells how much work it must be given.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "gpt2fast/library.h"
#include "system/thread_pool.h"

using namespace gpt2fast;

namespace {

// Some microseconds, in which every thread that is awake begins.
void compute() noexcept {
  uint64_t state = 1;
  for (int i = 0; i < 4000; ++i) state = state * 6364136223846793005u + 1442695040888963407u;
  static volatile uint64_t never;
  if (state == 0) never = state;
}

template <typename Work>
double nanoseconds(Work work) {
  constexpr int kRounds = 31, kCalls = 1000;
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int call = 0; call < kCalls; ++call) work();
    const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - begin;
    rounds.push_back(elapsed.count() / kCalls);
  }
  std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
  return rounds[kRounds / 2];
}

}  // namespace

int main() {
  for (int threads = 2; threads <= usable_cores(); ++threads) {
    ThreadPool pool(threads);
    const StepThreads step(pool);
    const double alone = nanoseconds(compute);
    const double run = nanoseconds([&] { pool.run(threads, [](int64_t) noexcept { compute(); }); });
    std::printf("%3d threads: a task %6.0f ns, a run %6.0f, more: %5.0f\n", threads, alone, run, run - alone);
  }
}
