// Threads that wait for tasks: first spinning, then asleep.
#include "system/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace gpt2fast {

namespace {

using Clock = std::chrono::steady_clock;

// A caller that generates begins its next step within this time.
constexpr auto kSpinTime = std::chrono::microseconds(100);
constexpr int kSpinsPerLook = 64;  // at the clock
constexpr int kSpinsAlone = 1024;  // some tens of microseconds, longer than what one thread does alone takes
constexpr int kSpinsForOthers = 20000;  // longer than a running thread keeps the caller waiting
// A yield that takes longer has let another program's thread run.
constexpr auto kLongYield = std::chrono::microseconds(500);
// For so long after it, cores are taken to be crowded.
constexpr auto kCrowdedTime = std::chrono::milliseconds(50);
// Threads sleep on crowded cores if the caller's part of a run takes longer: they wake up more slowly.
constexpr auto kLongPart = std::chrono::microseconds(200);
// Threads that have slept for less wake up on the core where they were.
constexpr auto kLongSleep = std::chrono::milliseconds(1);

// Leaves the core's resources to whatever else runs on it.
void spin_once() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// What threads look at now and then while they spin. It is seldom written.
struct alignas(64) ThreadPool::State {
  std::atomic<bool> is_stopping = false;
  std::atomic<bool> in_step = false;

  // When a yield last took long.
  std::atomic<Clock::time_point> last_crowded = Clock::time_point();
  // Whether the caller's part of the last run took long; known where cores have been crowded.
  std::atomic<bool> is_long = false;

  // Tasks of this run that other threads than the caller's have done.
  alignas(64) std::atomic<int64_t> done = 0;
  std::atomic<bool> caller_sleeps = false;
  std::mutex mutex;
  std::condition_variable caller_wakes_up;

  // Where more threads want to run than there are cores, another one may hold what this one waits for.
  void give_way() {
    const Clock::time_point before = Clock::now();
    std::this_thread::yield();
    const Clock::time_point after = Clock::now();
    if (after - before > kLongYield) last_crowded.store(after, std::memory_order_relaxed);
  }

  // Whether to sleep rather than to spin or to yield. A thread that spins uses up its share of a core, and
  // one that yields gives it away for a whole turn of the other. One that sleeps is woken as soon as it can
  // go on.
  bool should_sleep() const {
    return is_long.load(std::memory_order_relaxed) &&
           Clock::now() - last_crowded.load(std::memory_order_relaxed) < kCrowdedTime;
  }

  bool was_ever_crowded() const {
    return last_crowded.load(std::memory_order_relaxed) != Clock::time_point();
  }

  void add_done(int64_t tasks) {
    done.fetch_add(tasks);  // before looking whether the caller sleeps, as it looks at `done` before it does
    if (!caller_sleeps.load()) return;
    {
      const std::lock_guard lock(mutex);
    }
    caller_wakes_up.notify_one();
  }

  void wait_for_done(int64_t count) {
    for (int spins = 1; done.load(std::memory_order_acquire) < count; ++spins) {
      if (spins <= kSpinsAlone || spins % kSpinsPerLook != 0) {
        spin_once();
      } else if (should_sleep()) {
        sleep_until_done(count);
      } else if (spins > kSpinsForOthers) {
        give_way();
      }
    }
  }

  void sleep_until_done(int64_t count) {
    std::unique_lock lock(mutex);
    caller_sleeps.store(true);
    caller_wakes_up.wait(lock, [&] { return done.load() >= count; });
    caller_sleeps.store(false);
  }
};

// One thread and its shard. What it polls, and then needs first, is one cache line.
struct alignas(64) ThreadPool::Member {
  // Tasks of the shard that nobody has taken yet. Threads that come too late may take it below zero.
  std::atomic<int64_t> left = 0;
  std::atomic<bool> is_asleep = false;
  // The shard's last task is the one before `end`. Only who has taken one of the tasks may read these: else
  // the caller may be writing those of the next run.
  int64_t end = 0;
  TaskFunction function = nullptr;
  const void* data = nullptr;

  alignas(64) std::mutex mutex;
  std::condition_variable wakes_up;
  std::thread thread;

  void sleep(const std::atomic<bool>& is_stopping) {
    std::unique_lock lock(mutex);
    is_asleep.store(true, std::memory_order_relaxed);
    wakes_up.wait(lock, [&] {
      return !is_asleep.load(std::memory_order_relaxed) || is_stopping.load(std::memory_order_relaxed);
    });
  }

  void wake() {
    {
      const std::lock_guard lock(mutex);
      is_asleep.store(false, std::memory_order_relaxed);
    }
    wakes_up.notify_one();
  }

#ifdef __linux__
  cpu_set_t allowed;  // the cores to allow again, while the thread is kept off one
  bool is_off = false;

  void keep_off(int core) {
    const pthread_t handle = thread.native_handle();
    // This fails where there are more cores than a set has room for.
    if (pthread_getaffinity_np(handle, sizeof allowed, &allowed) != 0) return;
    if (!CPU_ISSET(core, &allowed) || CPU_COUNT(&allowed) < 2) return;
    cpu_set_t others = allowed;
    CPU_CLR(core, &others);
    is_off = pthread_setaffinity_np(handle, sizeof others, &others) == 0;
  }

  void let_back() {
    if (is_off) pthread_setaffinity_np(thread.native_handle(), sizeof allowed, &allowed);
    is_off = false;
  }
#endif
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  members_.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) members_.push_back(std::make_unique<Member>());
  for (int i = 1; i < threads; ++i) {
    try {
      members_[static_cast<size_t>(i)]->thread = std::thread([this, i] { serve(i); });
    } catch (const std::system_error& error) {
      stop();
      throw std::runtime_error(
          "threads=" + std::to_string(threads) + " needs " + std::to_string(threads - 1) +
          " threads beside the caller's, and the system grants " + std::to_string(i - 1) + " (" +
          error.what() + "); give threads=" + std::to_string(i) + " or raise the limit on processes");
    } catch (...) {  // no memory
      stop();
      throw;
    }
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() noexcept {
  state_->is_stopping.store(true, std::memory_order_relaxed);
  for (const auto& member : members_) {
    if (!member->thread.joinable()) continue;
    member->wake();
    member->thread.join();
  }
}

void ThreadPool::run_tasks(int64_t count, TaskFunction function, const void* data) const {
  const int64_t shards = std::min<int64_t>(count, threads());
  state_->done.store(0, std::memory_order_relaxed);
  for (int64_t s = 0, begin = 0; s < shards; ++s) {
    Member& member = *members_[static_cast<size_t>(s)];
    const int64_t end = count * (s + 1) / shards;
    member.end = end;
    member.function = function;
    member.data = data;
    member.left.store(end - begin, std::memory_order_release);
    begin = end;
    // A thread that falls asleep just now is woken next time: this thread does its tasks.
    if (member.is_asleep.load(std::memory_order_relaxed)) member.wake();
  }
  const bool timed = state_->was_ever_crowded();
  const Clock::time_point begin = timed ? Clock::now() : Clock::time_point();
  int64_t own = 0;
  for (int64_t s = 0; s < shards; ++s) own += run_shard(s);
  if (timed) state_->is_long.store(Clock::now() - begin > kLongPart, std::memory_order_relaxed);
  state_->wait_for_done(count - own);
}

// Runs what is left of a shard and returns how many tasks that were.
int64_t ThreadPool::run_shard(int64_t index) const noexcept {
  Member& shard = *members_[static_cast<size_t>(index)];
  int64_t ran = 0;
  while (shard.left.load(std::memory_order_relaxed) > 0) {
    const int64_t left = shard.left.fetch_sub(1, std::memory_order_acquire);
    if (left <= 0) break;
    shard.function(shard.data, shard.end - left);
    ++ran;
  }
  return ran;
}

void ThreadPool::serve(int64_t index) const noexcept {
  while (wait_for_tasks(*members_[static_cast<size_t>(index)])) {
    const int64_t own = run_shard(index);
    if (own > 0) state_->add_done(own);
    // Where shards are single tasks, the caller does those that are late: looking for them takes time.
    for (int64_t i = 1; own > 1 && i < threads(); ++i) {
      const int64_t others = run_shard((index + i) % threads());
      if (others > 0) state_->add_done(others);
    }
  }
}

// Returns false when the thread is to end.
bool ThreadPool::wait_for_tasks(Member& member) const noexcept {
  Clock::time_point last_use = Clock::now();
  for (int spins = 1; member.left.load(std::memory_order_relaxed) <= 0; ++spins) {
    spin_once();
    if (spins % kSpinsPerLook != 0) continue;
    if (state_->is_stopping.load(std::memory_order_relaxed)) return false;
    if (state_->in_step.load(std::memory_order_relaxed)) {
      last_use = Clock::now();
      if (spins <= kSpinsAlone) continue;
      if (state_->should_sleep()) {
        member.sleep(state_->is_stopping);
        spins = 0;
      } else {
        state_->give_way();
      }
    } else if (Clock::now() - last_use > kSpinTime) {
      member.sleep(state_->is_stopping);
      last_use = Clock::now();
    }
  }
  return true;
}

void ThreadPool::keep_off_this_core() const noexcept {
#ifdef __linux__
  const int core = sched_getcpu();
  if (core < 0 || core >= CPU_SETSIZE) return;
  for (size_t i = 1; i < members_.size(); ++i) members_[i]->keep_off(core);
#endif
}

StepThreads::StepThreads(ThreadPool& pool) noexcept : pool_(pool) {
  if (pool.threads() == 1) return;
  if (Clock::now() - pool.last_use_ >= kLongSleep) pool.keep_off_this_core();
  pool.state_->in_step.store(true, std::memory_order_relaxed);
}

StepThreads::~StepThreads() {
  if (pool_.threads() == 1) return;
  pool_.state_->in_step.store(false, std::memory_order_relaxed);
#ifdef __linux__
  for (size_t i = 1; i < pool_.members_.size(); ++i) pool_.members_[i]->let_back();
#endif
  pool_.last_use_ = Clock::now();
}

}  // namespace gpt2fast
