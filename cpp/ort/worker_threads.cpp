// The threads of a session's pool, and the cores on which they wake up.
#include "ort/worker_threads.h"

#include <future>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "ort/library.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace gpt2fast {

namespace {

using Clock = std::chrono::steady_clock;

// Threads that have slept for less wake up on the core where they were.
constexpr auto kLongSleep = std::chrono::milliseconds(1);

}  // namespace

struct WorkerThreads::Worker {
  std::thread thread;
  std::promise<void> has_work;  // set when there is work, or when the thread is to end
  abi::ThreadWork work = nullptr;
  void* data = nullptr;

  void run() {
    has_work.get_future().wait();
    if (work != nullptr) work(data);
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

WorkerThreads::WorkerThreads() = default;

WorkerThreads::~WorkerThreads() {
  for (; given_ < workers_.size(); ++given_) {
    workers_[given_]->has_work.set_value();
    workers_[given_]->thread.join();
  }
}

void WorkerThreads::start(int count) {
  for (int i = 0; i < count; ++i) {
    auto worker = std::make_unique<Worker>();
    workers_.reserve(workers_.size() + 1);  // nothing may fail once the thread runs
    try {
      worker->thread = std::thread(&Worker::run, worker.get());
    } catch (const std::system_error& error) {
      throw std::runtime_error("threads=" + std::to_string(count + 1) + " needs " + std::to_string(count) +
                               " threads beside the caller's, and the system grants " + std::to_string(i) +
                               " (" + error.what() + "); give threads=" + std::to_string(i + 1) +
                               " or raise the limit on processes");
    }
    workers_.push_back(std::move(worker));
  }
}

void WorkerThreads::serve(abi::SessionOptions* options) {
  const abi::Api& api = ort_api();
  check(api.SessionOptionsSetCustomThreadCreationOptions(options, this));
  check(api.SessionOptionsSetCustomCreateThreadFn(options, [](void* self, abi::ThreadWork work, void* data) {
    return static_cast<WorkerThreads*>(self)->give(work, data);
  }));
  check(api.SessionOptionsSetCustomJoinThreadFn(options, join));
}

abi::ThreadHandle WorkerThreads::give(abi::ThreadWork work, void* data) noexcept {
  if (given_ == workers_.size()) return nullptr;
  Worker& worker = *workers_[given_++];
  worker.work = work;
  worker.data = data;
  worker.has_work.set_value();
  return reinterpret_cast<abi::ThreadHandle>(&worker);
}

void WorkerThreads::join(abi::ThreadHandle thread) noexcept {
  reinterpret_cast<Worker*>(const_cast<abi::CustomThread*>(thread))->thread.join();
}

#ifdef __linux__
OffCallersCore::OffCallersCore(WorkerThreads& threads) noexcept : threads_(threads) {
  if (threads.workers_.empty() || Clock::now() - threads.last_use_ < kLongSleep) return;
  const int core = sched_getcpu();
  if (core < 0 || core >= CPU_SETSIZE) return;
  for (const auto& worker : threads.workers_) worker->keep_off(core);
}

OffCallersCore::~OffCallersCore() {
  if (threads_.workers_.empty()) return;
  for (const auto& worker : threads_.workers_) worker->let_back();
  threads_.last_use_ = Clock::now();
}
#else
OffCallersCore::OffCallersCore(WorkerThreads& threads) noexcept : threads_(threads) {}
OffCallersCore::~OffCallersCore() { threads_.last_use_ = Clock::now(); }
#endif

}  // namespace gpt2fast
