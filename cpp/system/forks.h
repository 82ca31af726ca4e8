// What a process has of its own, so that a child made by fork() gets it anew.
#pragma once

#include <atomic>
#include <cstdint>

namespace gpt2fast {

// Differs between a process and its parent. Constant where the system has no fork().
uint64_t process_generation() noexcept;

// A value that each process makes for itself when it first asks. In a child, the parent's is left as it is
// for ever: its locks may be held by threads that do not exist there.
template <typename T>
class ProcessLocal {
 public:
  ProcessLocal() = default;
  ~ProcessLocal() {
    Box* box = box_.load(std::memory_order_acquire);
    if (box != nullptr && box->generation == process_generation()) delete box;
  }
  ProcessLocal(const ProcessLocal&) = delete;
  ProcessLocal& operator=(const ProcessLocal&) = delete;

  T& get() {
    Box* box = box_.load(std::memory_order_acquire);
    if (box != nullptr && box->generation == process_generation()) return box->value;
    auto* fresh = new Box;
    if (box_.compare_exchange_strong(box, fresh, std::memory_order_acq_rel)) return fresh->value;
    delete fresh;  // another thread was first
    return box->value;
  }

 private:
  struct Box {
    const uint64_t generation = process_generation();
    T value;
  };

  std::atomic<Box*> box_ = nullptr;
};

}  // namespace gpt2fast
