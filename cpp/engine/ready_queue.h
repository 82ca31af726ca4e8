// Tells which of many calls have something for their callers: a pipe wakes event loops, a condition threads.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "gpt2fast/engine.h"

namespace gpt2fast {

class PipeQueue final : public ReadyQueue {
 public:
  PipeQueue() = default;
  ~PipeQueue() override;
  PipeQueue(const PipeQueue&) = delete;
  PipeQueue& operator=(const PipeQueue&) = delete;

  int file_descriptor() override;
  std::vector<uint64_t> take() override;
  void wait(const InterruptCheck& interrupted) override;
  void close() override;

  // Called by mailboxes when they are created and destroyed, so that put() needs no memory.
  void add_mailbox();
  void remove_mailbox();
  // The call with this key is ready.
  void put(uint64_t key);

 private:
  void open_pipe_locked();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint64_t> keys_;
  size_t mailboxes_ = 0;  // keys_ has room for the key of each
  bool closed_ = false;
  // The pipe is made when first needed; a byte lies in it while keys_ is not empty.
  int read_end_ = -1;
  int write_end_ = -1;
};

}  // namespace gpt2fast
