// Which threads are an engine's own.
#include "engine/engine_thread.h"

#include <thread>

#include "support/testing.h"

namespace gpt2fast {
namespace {

TEST(a_thread_is_an_engines_while_it_is_marked) {
  CHECK(!EngineThread::is_current());
  {
    const EngineThread mark;
    CHECK(EngineThread::is_current());
    bool other = true;
    std::thread([&] { other = EngineThread::is_current(); }).join();
    CHECK(!other);
  }
  CHECK(!EngineThread::is_current());
}

}  // namespace
}  // namespace gpt2fast
