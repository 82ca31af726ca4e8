// Which threads run the host program's code for which engine.
#include "engine/host_code.h"

#include <stdexcept>
#include <thread>

#include "support/testing.h"

namespace gpt2fast {
namespace {

bool refused(const void* engine) {
  try {
    HostCode::refuse(engine);
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

TEST(host_code_is_refused_the_engine_that_runs_it) {
  const int engine = 0;
  const int other = 0;
  CHECK(!refused(&engine));
  {
    const HostCode scope(&engine);
    CHECK(refused(&engine));
    CHECK(!refused(&other));
  }
  CHECK(!refused(&engine));
}

TEST(all_engines_on_the_way_are_refused) {
  const int outer_engine = 0;
  const int inner_engine = 0;
  const HostCode outer(&outer_engine);
  {
    const HostCode inner(&inner_engine);
    CHECK(refused(&outer_engine));
    CHECK(refused(&inner_engine));
  }
  CHECK(refused(&outer_engine));
  CHECK(!refused(&inner_engine));
}

TEST(other_threads_are_not_host_code) {
  const int engine = 0;
  const HostCode scope(&engine);
  bool there = true;
  std::thread other([&] { there = refused(&engine); });
  other.join();
  CHECK(!there);
}

}  // namespace
}  // namespace gpt2fast
