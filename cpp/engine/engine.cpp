// The engine behind the public interface: checks what callers give, and turns it into participants of the
// loop.
#include "gpt2fast/engine.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "engine/beam_generation.h"
#include "engine/continuation_reader.h"
#include "engine/engine_state.h"
#include "engine/engine_thread.h"
#include "engine/host_code.h"
#include "engine/live_sequence.h"
#include "engine/text_reader.h"
#include "gpt2fast/errors.h"
#include "gpt2fast/process_local.h"

namespace gpt2fast {

namespace {

using Participants = std::vector<std::unique_ptr<Participant>>;

// A caller's hold on a call. The call is given up when the handle is destroyed.
class Handle {
 public:
  Handle(std::shared_ptr<EngineState> state, std::shared_ptr<Call> call)
      : state_(std::move(state)), call_(std::move(call)), process_(process_generation()) {}
  ~Handle() {
    if (in_other_process()) {
      // Threads that do not exist here may hold locks for ever, so nothing can be destroyed.
      new std::shared_ptr<EngineState>(std::move(state_));
      new std::shared_ptr<Call>(std::move(call_));
      return;
    }
    // If the caller's own thread was to run the loop, nobody else may come to end the call.
    if (call_->attended) {
      close();
    } else {
      cancel();
    }
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  Call& call() {
    if (in_other_process()) {
      throw ClosedError("the call belongs to the parent process: make a new one in this process");
    }
    return *call_;
  }
  Scheduler& scheduler() { return state_->scheduler(); }

  void wait(bool or_progress, const InterruptCheck& interrupted) {
    try {
      scheduler().wait(call(), or_progress, interrupted);
    } catch (const Interrupted&) {
      close();
      throw;
    }
    if (call_->mailbox.finished()) call_->rethrow();
  }
  void begin() noexcept {
    if (!in_other_process()) scheduler().wake();
  }
  bool done() {
    if (!call().mailbox.finished()) return false;
    call_->rethrow();
    return true;
  }
  void cancel() noexcept {
    if (in_other_process() || call_->mailbox.finished()) return;
    call_->cancel();
    scheduler().wake();
  }
  void close() noexcept {
    if (in_other_process()) return;
    cancel();
    bool settled = false;
    while (!settled) settled = try_settle();  // the loop must not refer to the call any more before it goes
  }

 private:
  bool in_other_process() const { return process_ != process_generation(); }
  // False if memory ran out in the work of another caller.
  bool try_settle() noexcept {
    try {
      scheduler().settle(*call_);
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  }

  std::shared_ptr<EngineState> state_;
  std::shared_ptr<Call> call_;
  const uint64_t process_;
};

// What all kinds of calls have in common.
template <typename Interface>
class BasicCall : public Interface {
 public:
  BasicCall(std::shared_ptr<EngineState> state, std::shared_ptr<Call> call)
      : handle_(std::move(state), std::move(call)) {}

  void wait(const InterruptCheck& interrupted) override { handle_.wait(false, interrupted); }
  void begin() noexcept override { handle_.begin(); }
  bool done() override { return handle_.done(); }
  void cancel() noexcept override { handle_.cancel(); }
  void keep(std::shared_ptr<const void> data) override { handle_.call().keep(std::move(data)); }
  void close() noexcept override { handle_.close(); }

 protected:
  void require_done() {
    if (!handle_.done()) throw std::logic_error("the call is not done");
  }

  Handle handle_;
};

class GenerationCallImpl final : public BasicCall<GenerationCall> {
 public:
  using BasicCall::BasicCall;

  std::vector<Progress> take() override {
    Call& call = handle_.call();
    std::vector<Progress> progress = call.mailbox.take();
    bool awaited = false;
    for (const Progress& one : progress) {
      auto& sequence = static_cast<LiveSequence&>(*call.participants[static_cast<size_t>(one.index)]);
      awaited = sequence.mark_read(static_cast<int64_t>(one.new_tokens.size())) || awaited;
    }
    if (awaited) handle_.scheduler().wake();
    return progress;
  }

  std::vector<Progress> next(const InterruptCheck& interrupted) override {
    std::vector<Progress> progress = take();
    if (!progress.empty()) return progress;
    handle_.wait(true, interrupted);
    return take();
  }

  std::vector<std::vector<TextResult>> results() override {
    require_done();
    std::vector<std::vector<TextResult>> results;
    for (const auto& participant : handle_.call().participants) {
      if (const auto* beams = dynamic_cast<const BeamGeneration*>(participant.get())) {
        results.push_back(beams->results());
      } else {
        results.push_back({static_cast<const LiveSequence&>(*participant).result()});
      }
    }
    return results;
  }
};

using PlainCall = BasicCall<CallHandle>;

class TextScores final : public BasicCall<ScoreCall> {
 public:
  using BasicCall::BasicCall;

  std::vector<Logprobs> results() override {
    require_done();
    std::vector<Logprobs> scores;
    for (const auto& participant : handle_.call().participants) {
      scores.push_back(static_cast<const ScoreReader&>(*participant).scores());
    }
    return scores;
  }
};

class ContinuationScores final : public BasicCall<ScoreCall> {
 public:
  ContinuationScores(std::shared_ptr<EngineState> state, std::shared_ptr<Call> call,
                     std::shared_ptr<ContinuationWork> work)
      : BasicCall(std::move(state), std::move(call)), work_(std::move(work)) {}

  std::vector<Logprobs> results() override {
    require_done();
    return work_->scores;
  }

 private:
  std::shared_ptr<ContinuationWork> work_;
};

void submit(EngineState& state, const std::shared_ptr<Call>& call, bool bounded) {
  try {
    state.scheduler().submit(call, bounded);
  } catch (...) {
    call->mailbox.finish(std::current_exception());  // so that its handle does not wait for the loop
    throw;
  }
}

// The handle is made first, so that a call in the loop is always given up, whatever fails.
template <typename Impl, typename... More>
std::unique_ptr<Impl> submitted(const std::shared_ptr<EngineState>& state, Participants participants,
                                const CallOptions& options, More&&... more) {
  const bool attended = options.ready_queue == nullptr;
  auto call = std::make_shared<Call>(std::move(participants), options, attended);
  auto handle = std::make_unique<Impl>(state, call, std::forward<More>(more)...);
  submit(*state, call, true);
  return handle;
}

void check_prefix(const Prefix& prefix, const EngineOptions& options) {
  check_token_ids(prefix.tokens, options.vocab_size);
  const auto width = static_cast<size_t>(options.n_head * options.head_dim);
  const size_t elements = 2 * prefix.tokens.size() * width;
  const auto fits = [elements](const std::vector<float>& layer) { return layer.size() == elements; };
  if (static_cast<int64_t>(prefix.tokens.size()) > options.n_positions ||
      static_cast<int64_t>(prefix.layers.size()) != options.n_layer ||
      !std::ranges::all_of(prefix.layers, fits)) {
    throw std::invalid_argument("the prefix does not have this model's sizes");
  }
}

// The states of all engines, for the end of the program.
struct Registry {
  std::mutex mutex;
  std::vector<std::weak_ptr<EngineState>> states;
  bool closed = false;
};

Registry& registry() {
  static ProcessLocal<Registry> one;
  return one.get();
}

}  // namespace

std::shared_ptr<EngineState> EngineState::create(const EngineOptions& options) {
  const auto destroy = [](EngineState* state) {
    if (EngineThread::is_current()) {
      std::thread([state] { delete state; }).detach();
    } else {
      delete state;
    }
  };
  return {new EngineState(options), destroy};
}

std::unique_ptr<CallHandle> EngineState::submit_unattended(const std::shared_ptr<EngineState>& state,
                                                           Participants participants,
                                                           const CallOptions& options) {
  auto call = std::make_shared<Call>(std::move(participants), options, false);
  auto handle = std::make_unique<PlainCall>(state, call);
  submit(*state, call, false);
  return handle;
}

// What an engine has in each process. In a child process `local` is empty at first, and gets its own state.
struct Engine::Shared {
  struct Local {
    std::mutex mutex;
    std::shared_ptr<EngineState> state;
  };
  ProcessLocal<Local> local;
  // These are copied by fork(): a child process sees them as they were in its parent.
  std::atomic<bool> closed = false;
  std::optional<FileVersion> weights;  // of the file that was loaded first
};

std::shared_ptr<Engine> Engine::create(const EngineOptions& options) {
  std::shared_ptr<Engine> engine(new Engine(options));
  // The state is made now, so that a model that can't be loaded is reported here.
  engine->shared_->weights = engine->state()->stepper().weights_version();
  return engine;
}

Engine::Engine(const EngineOptions& options) : options_(options), shared_(std::make_unique<Shared>()) {}

Engine::~Engine() = default;

std::shared_ptr<EngineState> Engine::state() const {
  Shared::Local& local = shared_->local.get();
  const std::lock_guard lock(local.mutex);
  if (shared_->closed) throw ClosedError("the model is closed");
  if (!local.state) {
    Registry& all = registry();
    const std::lock_guard registered(all.mutex);
    if (all.closed) throw ClosedError("the program is ending: no model can be used any more");
    std::shared_ptr<EngineState> state = EngineState::create(options_);
    if (shared_->weights && *shared_->weights != state->stepper().weights_version()) {
      throw ModelError("'" + options_.model.name +
                       "': its weights were replaced or rewritten between loading and fork(); load the model "
                       "again");
    }
    local.state = std::move(state);
    std::erase_if(all.states, [](const auto& state) { return state.expired(); });
    all.states.push_back(local.state);
  }
  return local.state;
}

void Engine::close() {
  std::shared_ptr<EngineState> state;
  {
    Shared::Local& local = shared_->local.get();
    const std::lock_guard lock(local.mutex);
    if (local.state) HostCode::refuse(&local.state->scheduler());
    shared_->closed = true;
    state = std::exchange(local.state, nullptr);
  }
  if (state) state->scheduler().close();
}

void close_all_engines() {
  std::vector<std::shared_ptr<EngineState>> states;
  {
    Registry& all = registry();
    const std::lock_guard lock(all.mutex);
    all.closed = true;
    for (const auto& state : all.states) {
      if (auto held = state.lock()) states.push_back(std::move(held));
    }
  }
  for (const auto& state : states) state->scheduler().close(true);
}

int64_t Engine::cache_bytes_per_sequence() const { return state()->stepper().cache().bytes_per_slot(); }

void Engine::clear_prefix_cache() { state()->scheduler().clear_prefix_cache(); }

EngineStats Engine::stats() const { return state()->scheduler().stats(); }

std::unique_ptr<GenerationCall> Engine::generate(std::vector<Request> requests,
                                                 const std::shared_ptr<const GenerationOptions>& options,
                                                 const CallOptions& call) {
  const std::shared_ptr<EngineState> state = this->state();
  if (options->prefix) check_prefix(*options->prefix, state->options());
  Participants participants;
  participants.reserve(requests.size());
  for (Request& request : requests) {
    if (options->num_beams > 1) {
      participants.push_back(std::make_unique<BeamGeneration>(std::move(request), options, state->options()));
      continue;
    }
    auto sequence = std::make_unique<LiveSequence>(std::move(request), options, state->options(),
                                                   call.streamed, state->scheduler().waker());
    if (participants.empty()) sequence->prepare();  // which checks the options
    participants.push_back(std::move(sequence));
  }
  return submitted<GenerationCallImpl>(state, std::move(participants), call);
}

std::unique_ptr<CallHandle> Engine::forward(const ForwardRequest& request, const CallOptions& call) {
  const std::shared_ptr<EngineState> state = this->state();
  const auto shared = std::make_shared<const ForwardRequest>(request);
  for (const int64_t layer : request.layers) {
    if (layer >= 0 && layer < options_.n_layer) continue;
    throw std::invalid_argument("layers must be in [0, " + std::to_string(options_.n_layer) + "), got " +
                                std::to_string(layer));
  }
  Participants participants;
  for (size_t i = 0; i < request.sequences.size(); ++i) {
    check_text(request.sequences[i], request.past ? request.past->tokens : 0, state->options());
    participants.push_back(std::make_unique<HiddenReader>(shared, static_cast<int64_t>(i), n_embd()));
  }
  return submitted<PlainCall>(state, std::move(participants), call);
}

std::unique_ptr<CallHandle> Engine::logits(const LogitsRequest& request, const CallOptions& call) {
  const std::shared_ptr<EngineState> state = this->state();
  Participants participants;
  for (size_t i = 0; i < request.sequences.size(); ++i) {
    check_text(request.sequences[i], 0, state->options());
    std::optional<std::span<const int64_t>> rows;
    if (!request.rows.empty()) rows = request.rows[i];
    participants.push_back(std::make_unique<LogitsReader>(request.sequences[i], rows, request.logits[i]));
  }
  return submitted<PlainCall>(state, std::move(participants), call);
}

std::unique_ptr<ScoreCall> Engine::score(ScoreRequest request, const CallOptions& call) {
  const std::shared_ptr<EngineState> state = this->state();
  if (request.first.size() != request.sequences.size()) {
    throw std::invalid_argument("first must have one index per sequence");
  }
  Participants participants;
  for (size_t i = 0; i < request.sequences.size(); ++i) {
    check_text(request.sequences[i], 0, state->options());
    participants.push_back(std::make_unique<ScoreReader>(request.sequences[i], request.first[i], request.top,
                                                         state->options().vocab_size));
  }
  return submitted<TextScores>(state, std::move(participants), call);
}

std::unique_ptr<ScoreCall> Engine::score_continuations(ContinuationsRequest request,
                                                       const CallOptions& call) {
  const std::shared_ptr<EngineState> state = this->state();
  check_text(request.prompt, 0, state->options());
  for (const std::vector<int32_t>& one : request.continuations) {
    // The last token is not read.
    check_text(one, static_cast<int64_t>(request.prompt.size()) - 1, state->options());
  }
  if (request.prefix) check_prefix(*request.prefix, state->options());
  const auto readers =
      std::min(static_cast<int64_t>(request.continuations.size()), state->options().max_sequences);
  auto work = std::make_shared<ContinuationWork>(std::move(request));
  Participants participants;
  for (int64_t i = 0; i < readers; ++i) {
    participants.push_back(std::make_unique<ContinuationReader>(work, i == 0));
  }
  return submitted<ContinuationScores>(state, std::move(participants), call, std::move(work));
}

}  // namespace gpt2fast
