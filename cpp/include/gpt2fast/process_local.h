// Values that a child made by fork() must not share with its parent.
#pragma once

#include <atomic>
#include <cstdint>

namespace gpt2fast {

// Differs between a process and its parent. Constant where the system has no fork().
uint64_t process_generation() noexcept;

// A value that each process creates at its first use. A child never touches its parent's: threads that do not
// exist in the child may hold its locks.
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
