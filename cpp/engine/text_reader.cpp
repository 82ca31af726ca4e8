// Texts that are read from beginning to end, once.
#include "engine/text_reader.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/admission.h"
#include "engine/live_sequence.h"

namespace gpt2fast {

void check_text(std::span<const int32_t> tokens, int64_t past, const EngineOptions& options) {
  check_token_ids(tokens, options.vocab_size);
  if (past + static_cast<int64_t>(tokens.size()) <= options.n_positions) return;
  throw std::invalid_argument(
      "past (" + std::to_string(past) + ") and input (" + std::to_string(tokens.size()) +
      ") tokens together exceed the model's context window of " + std::to_string(options.n_positions));
}

Admitted TextReader::admit(Admission& admission) {
  const int64_t slot = admission.acquire_empty(past_ + left());
  if (slot < 0) return Admitted::kNoSlot;
  slot_ = slot;
  cache_ = &admission.cache();
  begin(*cache_, slot_);
  return Admitted::kYes;
}

void TextReader::release(SlotPool& slots) {
  if (slot_ >= 0) slots.release(std::exchange(slot_, -1), {});
}

void TextReader::plan(StepPlan& plan) {
  int64_t count = std::min(plan.room(), left());
  if (count <= 0) return;
  const auto tokens = this->tokens().subspan(static_cast<size_t>(read_));
  wanted_.clear();
  if (const std::span<const int32_t> next = scored(read_, count); !next.empty()) {
    plan.add_scored(slot_, past_ + read_, tokens.first(static_cast<size_t>(count)), next);
    return;
  }
  if (!wants(read_, count, wanted_)) {
    plan.add_hidden(slot_, past_ + read_, tokens.first(static_cast<size_t>(count)), wants_layer_inputs());
    return;
  }
  if (static_cast<int64_t>(wanted_.size()) > plan.rows()) {
    const auto rows = static_cast<size_t>(plan.rows());
    count = wanted_[rows];
    wanted_.resize(rows);
  }
  if (count > 0) plan.add_wanted(slot_, past_ + read_, tokens.first(static_cast<size_t>(count)), wanted_);
}

void TextReader::use(const StepResults& results) {
  const PlannedPart& part = results.parts().front();
  take(results, part, read_, wanted_);
  read_ += part.tokens;
  if (left() == 0) finish(*cache_, slot_);
}

HiddenReader::HiddenReader(std::shared_ptr<const ForwardRequest> request, int64_t sequence, int64_t width)
    : TextReader({request->sequences[static_cast<size_t>(sequence)].begin(),
                  request->sequences[static_cast<size_t>(sequence)].end()},
                 request->past ? request->past->tokens : 0),
      request_(std::move(request)),
      sequence_(sequence),
      width_(width) {}

void HiddenReader::begin(KvCache& cache, int64_t slot) {
  const int64_t past = request_->past ? request_->past->tokens : 0;
  for (int64_t layer = 0; layer < cache.layers() && past > 0; ++layer) {
    const float* keys = request_->past->layers[static_cast<size_t>(layer)] + sequence_ * past * width_;
    cache.write(layer, slot, 0, past, keys, keys + request_->past->batch * past * width_);
  }
}

bool HiddenReader::wants(int64_t, int64_t, std::vector<int32_t>&) { return false; }

void HiddenReader::take(const StepResults& results, const PlannedPart& part, int64_t first,
                        std::span<const int32_t>) {
  float* out = request_->hidden[static_cast<size_t>(sequence_)] + first * width_;
  for (int64_t i = 0; i < part.tokens; ++i) {
    std::ranges::copy(results.hidden(part.first_hidden + i), out + i * width_);
  }
  const auto total = static_cast<int64_t>(tokens().size());
  for (size_t i = 0; i < request_->layers.size(); ++i) {
    float* const layer =
        request_->layer_inputs[static_cast<size_t>(sequence_)] + static_cast<int64_t>(i) * total * width_;
    std::ranges::copy(results.layer_input(request_->layers[i], part.first_token, part.tokens),
                      layer + first * width_);
  }
}

void HiddenReader::finish(const KvCache& cache, int64_t slot) {
  const auto batch = static_cast<int64_t>(request_->sequences.size());
  const int64_t past = request_->past ? request_->past->tokens : 0;
  const int64_t total = past + static_cast<int64_t>(tokens().size());
  for (size_t layer = 0; layer < request_->new_past.size(); ++layer) {
    float* keys = request_->new_past[layer] + sequence_ * total * width_;
    cache.read(static_cast<int64_t>(layer), slot, 0, total, keys, keys + batch * total * width_);
  }
}

LogitsReader::LogitsReader(std::span<const int32_t> tokens, std::optional<std::span<const int64_t>> rows,
                           float* logits)
    : TextReader({tokens.begin(), tokens.end()}), rows_(rows), next_(logits) {
  int64_t before = -1;
  for (const int64_t row : rows.value_or(std::span<const int64_t>())) {
    if (row <= before || row >= static_cast<int64_t>(tokens.size())) {
      throw std::invalid_argument("rows must ascend from 0 on, below " + std::to_string(tokens.size()) +
                                  ", got " + std::to_string(row));
    }
    before = row;
  }
}

bool LogitsReader::wants(int64_t first, int64_t count, std::vector<int32_t>& wanted) {
  if (!rows_) {
    wanted.resize(static_cast<size_t>(count));
    std::iota(wanted.begin(), wanted.end(), 0);
    return true;
  }
  for (const int64_t row : *rows_) {
    if (row >= first && row < first + count) wanted.push_back(static_cast<int32_t>(row - first));
  }
  return true;
}

void LogitsReader::take(const StepResults& results, const PlannedPart& part, int64_t,
                        std::span<const int32_t> wanted) {
  for (int64_t i = 0; i < static_cast<int64_t>(wanted.size()); ++i) {
    next_ = std::ranges::copy(results.logits(part.first_row + i), next_).out;
  }
}

ScoreReader::ScoreReader(const std::vector<int32_t>& tokens, int64_t first, int32_t top, int64_t vocab_size)
    // What follows the last token is not wanted: it need not be read.
    : TextReader({tokens.begin(), tokens.end() - 1}),
      first_(first),
      top_(top),
      vocab_size_(vocab_size),
      targets_(tokens) {
  if (first < 1) throw std::invalid_argument("the first scored token must have one before it");
  const auto count = static_cast<size_t>(std::max<int64_t>(0, static_cast<int64_t>(tokens.size()) - first));
  scores_.chosen.reserve(count);
  scores_.top_ids.reserve(count * static_cast<size_t>(top));
  scores_.top_values.reserve(count * static_cast<size_t>(top));
}

void ScoreReader::begin(KvCache&, int64_t) {
  if (top_ > 0) likeliest_.emplace(vocab_size_, top_);
}

void ScoreReader::finish(const KvCache&, int64_t) { likeliest_.reset(); }

std::span<const int32_t> ScoreReader::scored(int64_t first, int64_t count) {
  const int64_t begin = std::max(first + 1, first_), end = first + count + 1;
  if (top_ > 0 || begin >= end) return {};
  return std::span<const int32_t>(targets_).subspan(static_cast<size_t>(begin),
                                                    static_cast<size_t>(end - begin));
}

bool ScoreReader::wants(int64_t first, int64_t count, std::vector<int32_t>& wanted) {
  for (int64_t row = std::max(first, first_ - 1); row < first + count; ++row) {
    wanted.push_back(static_cast<int32_t>(row - first));
  }
  return true;
}

void ScoreReader::take(const StepResults& results, const PlannedPart& part, int64_t first,
                       std::span<const int32_t> wanted) {
  if (!likeliest_) {
    for (int64_t i = 0; i < part.wanted; ++i) {
      scores_.chosen.push_back(results.log_probability(part.first_row + i));
    }
    return;
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    const std::span<const float> logits = results.logits(part.first_row + static_cast<int64_t>(i));
    for (const TokenLogprob& best : likeliest_->find(logits)) {
      scores_.top_ids.push_back(best.token);
      scores_.top_values.push_back(best.logprob);
    }
    const int32_t target = targets_[static_cast<size_t>(first + wanted[i]) + 1];
    scores_.chosen.push_back(likeliest_->log_probability(logits[static_cast<size_t>(target)]));
  }
}

}  // namespace gpt2fast
