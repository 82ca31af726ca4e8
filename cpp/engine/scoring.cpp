// Whole sequences through the model: hidden states, logits, log-probabilities.
#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "decoding/log_probabilities.h"
#include "engine/engine.h"
#include "engine/prompt_reader.h"
#include "gpt2fast/errors.h"

namespace gpt2fast {

namespace {

using Sequences = std::vector<std::span<const int32_t>>;

// A slot that is given back when this goes, unless it is only borrowed (pool is null).
class HeldSlot {
 public:
  HeldSlot(SlotPool* pool, int64_t slot) : pool_(pool), slot_(slot) {}
  ~HeldSlot() {
    if (pool_ != nullptr) pool_->release(slot_, remembered_);
  }
  HeldSlot(HeldSlot&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), slot_(other.slot_), remembered_(other.remembered_) {}
  HeldSlot(const HeldSlot&) = delete;
  HeldSlot& operator=(const HeldSlot&) = delete;
  HeldSlot& operator=(HeldSlot&&) = delete;

  int64_t slot() const { return slot_; }
  // Leaves these tokens, which the slot must hold, to later prompts.
  void remember(std::span<const int32_t> tokens) { remembered_ = tokens; }

 private:
  SlotPool* pool_;
  int64_t slot_;
  std::span<const int32_t> remembered_;
};

// What one step has computed of one sequence.
struct Piece {
  int64_t sequence;
  int64_t first;                    // index of its first token in the sequence
  int64_t count;                    // tokens
  std::span<const int32_t> wanted;  // of them, those with logits
  int64_t first_token;              // of the step
  int64_t first_row;                // of the step's logits
};

// Reads sequences from beginning to end, as many side by side as there are slots.
class BatchReader {
 public:
  struct Hooks {
    // The rows of a sequence whose logits are wanted, ascending, within [first, first + count), relative to
    // first.
    std::function<void(int64_t sequence, int64_t first, int64_t count, std::vector<int32_t>& wanted)> want;
    std::function<void(const Piece&)> use;                         // called with the step's results in place
    std::function<void(int64_t sequence, int64_t slot)> started;   // before its first step
    std::function<void(int64_t sequence, int64_t slot)> finished;  // after its last
  };

  // With a `shared_slot`, which the caller holds, that slot's first `past` tokens precede every sequence.
  BatchReader(EngineImpl& engine, const Sequences& sequences, int64_t past, const InterruptCheck& interrupted,
              Hooks hooks, int64_t shared_slot = -1)
      : engine_(engine),
        sequences_(sequences),
        past_(past),
        shared_slot_(shared_slot),
        check_(interrupted),
        hooks_(std::move(hooks)) {}

  void run() {
    const SlotPool::Working working(engine_.pool());
    size_t next = 0;
    while (next < sequences_.size()) next = run_wave(next);
  }

 private:
  // Reads the sequences from `first` on that find a slot; returns the first that did not.
  size_t run_wave(size_t first) {
    const InterruptCheck stop = [this] { return check_(); };
    std::vector<HeldSlot> readers;
    size_t end = first;
    if (shared_slot_ >= 0) {  // what is written behind the shared tokens does not change them
      readers.emplace_back(nullptr, shared_slot_);
      ++end;
    }
    for (; end < sequences_.size(); ++end) {
      const SlotPool::Grant grant =
          readers.empty() ? engine_.pool().acquire({}, false, stop) : engine_.pool().try_acquire({}, false);
      if (grant.slot < 0) break;
      readers.emplace_back(&engine_.pool(), grant.slot);
      if (shared_slot_ >= 0) engine_.stepper().cache().copy(shared_slot_, grant.slot, past_);
      if (hooks_.started) hooks_.started(static_cast<int64_t>(end), grant.slot);
    }
    std::vector<int64_t> read(readers.size(), 0);
    while (step(first, readers, read, stop)) {
    }
    for (size_t i = 0; i < readers.size(); ++i) {
      if (hooks_.finished) hooks_.finished(static_cast<int64_t>(first + i), readers[i].slot());
    }
    return end;
  }

  // One step over what is left of the wave; false when nothing is.
  bool step(size_t first, const std::vector<HeldSlot>& readers, std::vector<int64_t>& read,
            const InterruptCheck& stop) {
    pieces_.clear();
    parts_.clear();
    Stepper& stepper = engine_.stepper();
    int64_t room = stepper.max_tokens();
    int64_t rows = stepper.max_logits_rows();
    wanted_.resize(readers.size());
    for (size_t i = 0; i < readers.size() && room > 0 && rows > 0; ++i) {
      const std::span<const int32_t> tokens = sequences_[first + i].subspan(static_cast<size_t>(read[i]));
      if (tokens.empty()) continue;
      const auto sequence = static_cast<int64_t>(first + i);
      int64_t count = std::min(room, static_cast<int64_t>(tokens.size()));
      std::vector<int32_t>& wanted = wanted_[i];
      wanted.clear();
      if (hooks_.want) hooks_.want(sequence, read[i], count, wanted);
      if (static_cast<int64_t>(wanted.size()) > rows) {
        count = wanted[static_cast<size_t>(rows)];
        wanted.resize(static_cast<size_t>(rows));
      }
      pieces_.push_back(
          {sequence, read[i], count, wanted, stepper.max_tokens() - room, stepper.max_logits_rows() - rows});
      parts_.push_back({readers[i].slot(), past_ + read[i], tokens.first(static_cast<size_t>(count)), wanted,
                        !hooks_.want});
      room -= count;
      rows -= static_cast<int64_t>(wanted.size());
      read[i] += count;
    }
    if (parts_.empty()) return false;
    const std::lock_guard lock(stepper.mutex());
    stepper.step(parts_, stop);
    for (const Piece& piece : pieces_) hooks_.use(piece);
    return true;
  }

  EngineImpl& engine_;
  const Sequences& sequences_;
  int64_t past_;
  int64_t shared_slot_;
  RateLimitedCheck check_;
  Hooks hooks_;
  std::vector<StepPart> parts_;
  std::vector<Piece> pieces_;
  std::vector<std::vector<int32_t>> wanted_;  // per sequence of the wave
};

void check_sequences(const EngineOptions& options, const Sequences& sequences, int64_t past) {
  for (const std::span<const int32_t> tokens : sequences) {
    check_token_ids(tokens, options.vocab_size);
    if (past + static_cast<int64_t>(tokens.size()) > options.n_positions) {
      throw std::invalid_argument(
          "past (" + std::to_string(past) + ") and input (" + std::to_string(tokens.size()) +
          ") tokens together exceed the model's context window of " + std::to_string(options.n_positions));
    }
  }
}

}  // namespace

void EngineImpl::forward(const ForwardRequest& request, const InterruptCheck& interrupted) {
  const int64_t past = request.past ? request.past->tokens : 0;
  check_sequences(options_, request.sequences, past);
  KvCache& cache = stepper_.cache();
  const auto batch = static_cast<int64_t>(request.sequences.size());
  const int64_t layers = cache.layers();
  const int64_t width = stepper_.width();
  BatchReader::Hooks hooks;
  hooks.started = [&](int64_t sequence, int64_t slot) {
    for (int64_t layer = 0; layer < layers && past > 0; ++layer) {
      const float* keys = request.past->layers[static_cast<size_t>(layer)] + sequence * past * width;
      cache.write(layer, slot, 0, past, keys, keys + batch * past * width);
    }
  };
  hooks.use = [&](const Piece& piece) {
    float* out = request.hidden(piece.sequence) + piece.first * width;
    for (int64_t i = 0; i < piece.count; ++i) {
      std::ranges::copy(stepper_.hidden(piece.first_token + i), out + i * width);
    }
  };
  hooks.finished = [&](int64_t sequence, int64_t slot) {
    const int64_t total =
        past + static_cast<int64_t>(request.sequences[static_cast<size_t>(sequence)].size());
    for (size_t layer = 0; layer < request.new_past.size(); ++layer) {
      float* keys = request.new_past[layer] + sequence * total * width;
      cache.read(static_cast<int64_t>(layer), slot, 0, total, keys, keys + batch * total * width);
    }
  };
  BatchReader(*this, request.sequences, past, interrupted, std::move(hooks)).run();
}

void EngineImpl::logits(const LogitsRequest& request, const InterruptCheck& interrupted) {
  check_sequences(options_, request.sequences, 0);
  BatchReader::Hooks hooks;
  hooks.want = [&](int64_t sequence, int64_t first, int64_t count, std::vector<int32_t>& wanted) {
    if (request.rows.empty()) {
      wanted.resize(static_cast<size_t>(count));
      std::iota(wanted.begin(), wanted.end(), 0);
      return;
    }
    for (const int64_t row : request.rows[static_cast<size_t>(sequence)]) {
      if (row >= first && row < first + count) wanted.push_back(static_cast<int32_t>(row - first));
    }
  };
  hooks.use = [&](const Piece& piece) {
    for (size_t i = 0; i < piece.wanted.size(); ++i) {
      request.take(piece.sequence, piece.first + piece.wanted[i],
                   stepper_.logits(piece.first_row + static_cast<int64_t>(i)));
    }
  };
  BatchReader(*this, request.sequences, 0, interrupted, std::move(hooks)).run();
}

std::vector<Logprobs> EngineImpl::score(const Sequences& sequences, const std::vector<int64_t>& first,
                                        int32_t top, const InterruptCheck& interrupted) {
  std::vector<Logprobs> scores(sequences.size());
  std::vector<std::vector<int64_t>> rows(sequences.size());
  LogitsRequest request{.sequences = sequences, .rows = {}, .take = {}};
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto length = static_cast<int64_t>(sequences[i].size());
    if (first[i] < 1) throw std::invalid_argument("the first scored token must have one before it");
    rows[i].resize(static_cast<size_t>(std::max<int64_t>(0, length - first[i])));
    std::iota(rows[i].begin(), rows[i].end(), first[i] - 1);
    scores[i].chosen.reserve(rows[i].size());
    request.rows.emplace_back(rows[i]);
  }
  std::optional<TopLogprobs> likeliest;
  if (top > 0) likeliest.emplace(options_.vocab_size, top);
  request.take = [&](int64_t sequence, int64_t row, std::span<const float> logits) {
    const auto i = static_cast<size_t>(sequence);
    scores[i].chosen.push_back(log_probability(logits, sequences[i][static_cast<size_t>(row) + 1]));
    if (!likeliest) return;
    for (const TokenLogprob& best : likeliest->find(logits)) {
      scores[i].top_ids.push_back(best.token);
      scores[i].top_values.push_back(best.logprob);
    }
  };
  logits(request, interrupted);
  return scores;
}

std::vector<std::vector<float>> EngineImpl::score_continuations(std::span<const int32_t> prompt,
                                                                const Sequences& continuations,
                                                                const Prefix* prefix,
                                                                const InterruptCheck& interrupted) {
  const auto length = static_cast<int64_t>(prompt.size());
  check_sequences(options_, {prompt}, 0);
  check_sequences(options_, continuations, length);
  if (prefix != nullptr) check_prefix(*prefix);
  std::vector<std::vector<float>> scores(continuations.size());
  if (continuations.empty()) return scores;

  const SlotPool::Working working(pool_);
  RateLimitedCheck check(interrupted);
  const InterruptCheck stop = [&check] { return check(); };
  const SlotPool::Grant grant = pool_.acquire(prompt, true, stop);
  HeldSlot shared(&pool_, grant.slot);
  const int64_t cached = restore_prefix(prefix, prompt, grant.slot, grant.cached_length);
  read_prompt(stepper_, grant.slot, prompt, cached, stop, [&](std::span<const float> logits) {
    const double total = log_sum_exp(logits);
    for (size_t i = 0; i < continuations.size(); ++i) {
      const auto first = static_cast<size_t>(continuations[i].front());
      scores[i].push_back(static_cast<float>(static_cast<double>(logits[first]) - total));
    }
  });
  shared.remember(prompt);

  // What follows a continuation's last token is not wanted: that token need not be read.
  Sequences read;
  for (const std::span<const int32_t> tokens : continuations) read.push_back(tokens.first(tokens.size() - 1));
  BatchReader::Hooks hooks;
  hooks.want = [](int64_t, int64_t, int64_t count, std::vector<int32_t>& wanted) {
    wanted.resize(static_cast<size_t>(count));
    std::iota(wanted.begin(), wanted.end(), 0);
  };
  hooks.use = [&](const Piece& piece) {
    const auto i = static_cast<size_t>(piece.sequence);
    for (int64_t k = 0; k < piece.count; ++k) {
      const int32_t next = continuations[i][static_cast<size_t>(piece.first + k) + 1];
      scores[i].push_back(log_probability(stepper_.logits(piece.first_row + k), next));
    }
  };
  BatchReader(*this, read, length, interrupted, std::move(hooks), grant.slot).run();
  return scores;
}

}  // namespace gpt2fast
