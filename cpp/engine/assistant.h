// A smaller model that drafts one sequence's next tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "decoding/token_chooser.h"
#include "engine/stepper.h"
#include "gpt2fast/engine.h"

namespace gpt2fast {

class EngineImpl;

// Drafts with the sequence's own options and seed: as the draw at a position is the same for both models, a
// sampled draft is right wherever the two distributions agree about it.
class Assistant {
 public:
  // Throws std::invalid_argument when the vocabularies differ.
  Assistant(const Request& request, const EngineOptions& options, int64_t max_length);
  ~Assistant();
  Assistant(const Assistant&) = delete;
  Assistant& operator=(const Assistant&) = delete;

  // At most `limit` tokens to follow the history; none when the assistant has no free slot or its context is
  // full. Valid until the next call.
  std::span<const int32_t> propose(const TokenHistory& history, int64_t limit, const InterruptCheck& stop);
  // How many tokens of the last proposal turned out right: the draft grows when all were and shrinks when few
  // were.
  void accept(int64_t count);
  void release_slot();

 private:
  int32_t draft_one(const TokenHistory& history, const InterruptCheck& stop);
  void keep_agreeing(const TokenHistory& history);

  std::shared_ptr<EngineImpl> engine_;
  TokenChooser chooser_;
  int64_t max_draft_;
  int64_t draft_length_;
  int64_t slot_ = -1;
  std::vector<int32_t> cached_;  // tokens whose keys and values the slot holds
  std::vector<int32_t> output_;  // the sequence's output, then the draft
  int64_t drafted_ = 0;
};

}  // namespace gpt2fast
