// Marks the threads that engines start for themselves.
#pragma once

namespace gpt2fast {

// Marks the current thread as an engine's own while it lives: it must not wait for such a thread to end.
class EngineThread {
 public:
  EngineThread() { current() = true; }
  ~EngineThread() { current() = false; }
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  static bool is_current() { return current(); }

 private:
  static bool& current() {
    static thread_local bool marked = false;
    return marked;
  }
};

}  // namespace gpt2fast
