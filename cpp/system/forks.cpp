// Counts the forks that lead to this process.
#include "system/forks.h"

#ifndef _WIN32
#include <pthread.h>
#endif

namespace gpt2fast {

namespace {

std::atomic<uint64_t> generation = 0;

#ifndef _WIN32
extern "C" void count_fork() { generation.fetch_add(1, std::memory_order_relaxed); }

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, &count_fork);
#endif

}  // namespace

uint64_t process_generation() noexcept { return generation.load(std::memory_order_relaxed); }

}  // namespace gpt2fast
