// A smaller model that drafts one text's next tokens, in steps of its own engine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/waker.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

class DraftExchange;
class EngineState;

// Drafts with the text's own options and seed: as the draw at a position is the same for both models, a
// sampled draft is right wherever the two distributions agree about it.
class Assistant {
 public:
  // `waker` wakes the text's own loop when a draft is ready. Throws std::invalid_argument when the
  // vocabularies differ.
  Assistant(const GenerationOptions& options, uint64_t seed, const EngineOptions& model, int64_t max_length,
            std::shared_ptr<Waker> waker);
  ~Assistant();
  Assistant(const Assistant&) = delete;
  Assistant& operator=(const Assistant&) = delete;

  // Requests at most `limit` tokens to follow the history. The draft is empty when the assistant has no free
  // slot or its context is full.
  void request_draft(const TokenHistory& history, int64_t limit);
  bool is_drafting() const;
  // Takes at most `limit` tokens of the draft that was requested last.
  void take_draft(std::vector<int32_t>& draft, int64_t limit);
  // Reports how many tokens of the last draft were right. Drafts grow when all were, and shrink when few
  // were.
  void accept(int64_t count);

 private:
  std::shared_ptr<EngineState> state_;
  std::shared_ptr<DraftExchange> exchange_;
  std::unique_ptr<CallHandle> call_;
  int64_t max_draft_;
  int64_t draft_length_;
  int64_t drafted_ = 0;
};

}  // namespace gpt2fast
