// A smaller model that drafts: what it says, how its drafts grow and shrink, what ends them.
#include "engine/assistant.h"

#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "support/ort_testing.h"
#include "support/small_model.h"

namespace gpt2fast {
namespace {

using namespace testing::small_model;
using Tokens = std::vector<int32_t>;

// A text that requests drafts.
struct Requester {
  Requester() : engine(Engine::create(options_of())) {
    options.assistant = engine;
    options.num_assistant_tokens = 6;
  }

  std::unique_ptr<Assistant> assistant(const EngineOptions& model) {
    return std::make_unique<Assistant>(options, 0, model, 60, std::make_shared<Waker>([this] {
                                         const std::lock_guard lock(mutex);
                                         changed.notify_all();
                                       }));
  }
  // The draft, once it has come.
  Tokens draft(Assistant& assistant, const Tokens& prompt, const Tokens& output, int64_t limit) {
    assistant.request_draft({prompt, output}, limit);
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return !assistant.is_drafting(); });
    }
    Tokens draft;
    assistant.take_draft(draft, limit);
    return draft;
  }
  Tokens said(const Tokens& prompt, int64_t count) const {
    auto generation = std::make_shared<GenerationOptions>();
    generation->stop.max_new_tokens = count;
    std::vector<Request> requests{{.prompt = prompt, .seed = 0, .hook = nullptr}};
    const auto call = engine->generate(std::move(requests), generation, {});
    call->wait({});
    return call->results()[0][0].tokens;
  }

  // Before the engine, whose loop may wake this text until it has gone.
  std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<Engine> engine;
  GenerationOptions options;
};

ORT_TEST(an_assistant_drafts_what_it_would_say) {
  Requester requester;
  const auto assistant = requester.assistant(requester.engine->options());
  const Tokens prompt{5, 6, 7};
  const Tokens expected = requester.said(prompt, 4);
  CHECK(requester.draft(*assistant, prompt, {}, 10) == expected);
  CHECK(requester.draft(*assistant, prompt, {expected[0]}, 2) ==
        Tokens(expected.begin() + 1, expected.begin() + 3));
  CHECK(requester.draft(*assistant, prompt, {}, 0).empty());
}

ORT_TEST(drafts_grow_while_they_are_right_and_shrink_when_they_are_not) {
  Requester requester;
  const auto assistant = requester.assistant(requester.engine->options());
  const auto drafted = [&] { return requester.draft(*assistant, {5, 6, 7}, {}, 10).size(); };
  CHECK_EQ(drafted(), size_t{4});
  assistant->accept(4);
  CHECK_EQ(drafted(), size_t{6});  // twice as many, but num_assistant_tokens at most
  assistant->accept(2);
  CHECK_EQ(drafted(), size_t{3});
  assistant->accept(0);
  CHECK_EQ(drafted(), size_t{1});
  assistant->accept(1);
  CHECK_EQ(drafted(), size_t{2});
}

ORT_TEST(another_vocabulary_is_refused) {
  Requester requester;
  EngineOptions model = requester.engine->options();
  model.vocab_size = 41;
  const std::string message = testing::error_of<std::invalid_argument>([&] { requester.assistant(model); });
  CHECK(testing::contains(message, "41"));
  CHECK(testing::contains(message, "40"));
}

ORT_TEST(a_closed_assistant_drafts_nothing) {
  Requester requester;
  const auto assistant = requester.assistant(requester.engine->options());
  const EngineOptions model = requester.engine->options();
  requester.engine->close();
  CHECK(requester.draft(*assistant, {5, 6, 7}, {}, 10).empty());
  CHECK_THROWS(requester.assistant(model), ClosedError);
}

ORT_TEST(an_assistant_that_is_gone_leaves_no_call_behind) {
  Requester requester;
  requester.assistant(requester.engine->options()).reset();
  CHECK_EQ(requester.said({1, 2}, 5).size(), size_t{5});  // when the loop has had a turn
  CHECK_EQ(requester.engine->stats().waiting, int64_t{0});
  CHECK_EQ(requester.engine->stats().cancelled, int64_t{1});
}

}  // namespace
}  // namespace gpt2fast
