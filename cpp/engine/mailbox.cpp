// What the steps gave a caller.
#include "engine/mailbox.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/ready_queue.h"
#include "engine/room.h"

namespace gpt2fast {

Mailbox::Mailbox(std::shared_ptr<ReadyQueue> queue, uint64_t key) : queue_(std::move(queue)), key_(key) {
  if (queue_) static_cast<PipeQueue&>(*queue_).add_mailbox();
}

Mailbox::~Mailbox() {
  if (queue_) static_cast<PipeQueue&>(*queue_).remove_mailbox();
}

void Mailbox::reserve(int64_t texts, int64_t tokens_each) {
  const std::lock_guard lock(mutex_);
  reports_.reserve(static_cast<size_t>(texts * tokens_each));
  tokens_.reserve(static_cast<size_t>(texts * tokens_each));
}

void Mailbox::put(const Report& report) {
  const auto append = [](auto& all, const auto& some) { all.insert(all.end(), some.begin(), some.end()); };
  const std::lock_guard lock(mutex_);
  make_room_for(tokens_, report.tokens.size());
  make_room_for(chosen_, report.chosen.size());
  make_room_for(top_ids_, report.top_ids.size());
  make_room_for(top_values_, report.top_values.size());
  make_room_for(reports_, 1);
  append(tokens_, report.tokens);
  append(chosen_, report.chosen);
  append(top_ids_, report.top_ids);
  append(top_values_, report.top_values);
  reports_.push_back({report.index, report.tokens.size(), report.chosen.size(), report.top_ids.size(),
                      report.reason, report.safe_bytes});
  news_ = true;
}

void Mailbox::put_hook(HookWork* work) {
  const std::lock_guard lock(mutex_);
  hooks_.push_back(work);
  news_ = true;
}

bool Mailbox::withdraw_hook(HookWork* work) {
  const std::lock_guard lock(mutex_);
  return std::erase(hooks_, work) > 0;
}

void Mailbox::finish(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  error_ = std::move(error);
  finished_ = true;
  news_ = true;
}

void Mailbox::notify() {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(news_, false)) return;
  }
  changed_.notify_all();
  if (queue_) static_cast<PipeQueue&>(*queue_).put(key_);
}

void Mailbox::nudge() {
  {
    const std::lock_guard lock(mutex_);
    ++nudges_;
  }
  changed_.notify_all();
}

std::vector<Progress> Mailbox::take() {
  std::vector<Progress> progress;
  const std::lock_guard lock(mutex_);
  progress.reserve(reports_.size());
  size_t token = 0;
  size_t chosen = 0;
  size_t likeliest = 0;
  const auto part = [](const auto& all, size_t& first, size_t count) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(std::exchange(first, first + count));
    return std::vector(begin, begin + static_cast<std::ptrdiff_t>(count));
  };
  for (const Stored& report : reports_) {
    size_t same = likeliest;
    progress.push_back({.index = report.index,
                        .new_tokens = part(tokens_, token, report.tokens),
                        .finish_reason = report.reason,
                        .safe_bytes = report.safe_bytes,
                        .logprobs = {.chosen = part(chosen_, chosen, report.chosen),
                                     .top_ids = part(top_ids_, same, report.likeliest),
                                     .top_values = part(top_values_, likeliest, report.likeliest)}});
  }
  reports_.clear();
  tokens_.clear();
  chosen_.clear();
  top_ids_.clear();
  top_values_.clear();
  return progress;
}

std::vector<HookWork*> Mailbox::take_hooks() {
  const std::lock_guard lock(mutex_);
  return std::exchange(hooks_, {});
}

bool Mailbox::has_hooks() const {
  const std::lock_guard lock(mutex_);
  return !hooks_.empty();
}

bool Mailbox::has_progress() const {
  const std::lock_guard lock(mutex_);
  return !reports_.empty();
}

bool Mailbox::finished() const {
  const std::lock_guard lock(mutex_);
  return finished_;
}

void Mailbox::rethrow() {
  std::exception_ptr error;
  {
    const std::lock_guard lock(mutex_);
    if (error_) {
      error = std::exchange(
          error_, std::make_exception_ptr(std::runtime_error("the call has failed, and has told its error")));
    }
  }
  if (error) std::rethrow_exception(error);
}

uint64_t Mailbox::nudges() const {
  const std::lock_guard lock(mutex_);
  return nudges_;
}

void Mailbox::wait_until(Clock::time_point time, bool or_progress, uint64_t seen) {
  std::unique_lock lock(mutex_);
  const auto woken = [&] {
    return (or_progress && !reports_.empty()) || !hooks_.empty() || finished_ || nudges_ != seen;
  };
  if (time == kNever) {
    changed_.wait(lock, woken);
  } else {
    changed_.wait_until(lock, time, woken);
  }
}

}  // namespace gpt2fast
