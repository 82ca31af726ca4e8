// Tells which of many calls have something for their callers.
#include "engine/ready_queue.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#ifndef _WIN32
#include <fcntl.h>
#include <unistd.h>
#endif

#include "engine/interrupt_guard.h"
#include "engine/room.h"
#include "gpt2fast/errors.h"

namespace gpt2fast {

std::shared_ptr<ReadyQueue> ReadyQueue::create() { return std::make_shared<PipeQueue>(); }

#ifdef _WIN32

PipeQueue::~PipeQueue() = default;

void PipeQueue::open_pipe_locked() {
  throw std::runtime_error("event loops of this system cannot wait for a file descriptor");
}

void PipeQueue::put(uint64_t key) {
  {
    const std::lock_guard lock(mutex_);
    if (std::ranges::find(keys_, key) == keys_.end()) keys_.push_back(key);
  }
  changed_.notify_all();
}

std::vector<uint64_t> PipeQueue::take() {
  const std::lock_guard lock(mutex_);
  std::vector<uint64_t> taken = keys_;
  keys_.clear();
  return taken;
}

#else

namespace {

// Results are ignored: a full pipe wakes its reader anyway, and an empty one has no byte to take.
void put_byte(int write_end) { [[maybe_unused]] const ssize_t written = ::write(write_end, "", 1); }

void take_byte(int read_end) {
  char byte = 0;
  [[maybe_unused]] const ssize_t taken = ::read(read_end, &byte, 1);
}

}  // namespace

PipeQueue::~PipeQueue() {
  if (read_end_ >= 0) ::close(read_end_);
  if (write_end_ >= 0) ::close(write_end_);
}

void PipeQueue::open_pipe_locked() {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe can be opened: too many open files?");
  read_end_ = ends[0];
  write_end_ = ends[1];
  for (const int end : ends) {
    ::fcntl(end, F_SETFD, FD_CLOEXEC);
    ::fcntl(end, F_SETFL, O_NONBLOCK);
  }
  if (!keys_.empty()) put_byte(write_end_);
}

void PipeQueue::put(uint64_t key) {
  int woken = -1;
  {
    const std::lock_guard lock(mutex_);
    if (keys_.empty()) woken = write_end_;
    if (std::ranges::find(keys_, key) == keys_.end()) keys_.push_back(key);
  }
  if (woken >= 0) put_byte(woken);  // without the lock, which its reader takes at once
  changed_.notify_all();
}

std::vector<uint64_t> PipeQueue::take() {
  const std::lock_guard lock(mutex_);
  std::vector<uint64_t> taken = keys_;
  // Even without keys: they may have been taken before their byte came.
  if (read_end_ >= 0) take_byte(read_end_);
  keys_.clear();
  return taken;
}

#endif

void PipeQueue::add_mailbox() {
  const std::lock_guard lock(mutex_);
  const size_t needed = mailboxes_ + 1;
  // The queue may still hold keys of mailboxes that are gone.
  make_room_for(keys_, needed);
  mailboxes_ = needed;
}

void PipeQueue::remove_mailbox() {
  const std::lock_guard lock(mutex_);
  --mailboxes_;
}

int PipeQueue::file_descriptor() {
  const std::lock_guard lock(mutex_);
  if (read_end_ < 0) open_pipe_locked();
  return read_end_;
}

void PipeQueue::wait(const InterruptCheck& interrupted) {
  std::unique_lock lock(mutex_);
  const auto woken = [this] { return !keys_.empty() || closed_; };
  while (!interrupted && !woken()) changed_.wait(lock, woken);
  while (!woken()) {
    changed_.wait_for(lock, kInterruptInterval, woken);
    lock.unlock();
    if (interrupted()) throw Interrupted();
    lock.lock();
  }
}

void PipeQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

}  // namespace gpt2fast
