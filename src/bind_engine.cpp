// Engine and Run: one crossing into C++ per call, Python's lock released in between.
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings.h"
#include "gpt2fast/engine.h"

namespace gpt2fast::bindings {

namespace {

using Sequences = std::vector<Int32Array>;
// One array per layer, [2, batch, heads, tokens, head_dim].
using PastArrays = std::vector<FloatArray>;

// Calls the core without Python's lock: it may have to wait for a step on another thread, which may be
// waiting for that lock.
template <typename Function>
auto unlocked(const Function& function) {
  const py::gil_scoped_release release;
  return function();
}

std::vector<std::span<const int32_t>> as_spans(const Sequences& sequences) {
  std::vector<std::span<const int32_t>> spans;
  spans.reserve(sequences.size());
  for (const Int32Array& one : sequences) spans.push_back(as_span(one));
  return spans;
}

std::shared_ptr<Engine> make_engine(const std::string& model_path, int64_t n_layer, int64_t n_head,
                                    int64_t head_dim, int64_t n_positions, int64_t vocab_size,
                                    int cache_format, int threads, int64_t max_sequences,
                                    int64_t max_step_tokens, int64_t prefix_cache_bytes) {
  const EngineOptions options{.model_path = model_path,
                              .n_layer = n_layer,
                              .n_head = n_head,
                              .head_dim = head_dim,
                              .n_positions = n_positions,
                              .vocab_size = vocab_size,
                              .cache_format = static_cast<CacheFormat>(cache_format),
                              .threads = threads,
                              .max_sequences = max_sequences,
                              .max_step_tokens = max_step_tokens,
                              .prefix_cache_bytes = prefix_cache_bytes};
  const py::gil_scoped_release release;
  return Engine::create(options);
}

std::unique_ptr<Run> start(Engine& engine, const std::vector<std::shared_ptr<Request>>& requests) {
  std::vector<Request> copies;
  copies.reserve(requests.size());
  for (const auto& request : requests) copies.push_back(*request);
  const py::gil_scoped_release release;
  return engine.start(std::move(copies));
}

// The hypotheses, best first, each (token_ids, score, finish_reason).
py::list beam_search(Engine& engine, const Request& request, int32_t num_beams, int32_t num_return_sequences,
                     double length_penalty, int32_t early_stopping,
                     const std::shared_ptr<CancelFlag>& cancel) {
  const BeamRequest beams{.prompt = request.prompt,
                          .sampling = request.sampling,
                          .stop = request.stop,
                          .num_beams = num_beams,
                          .num_return_sequences = num_return_sequences,
                          .length_penalty = length_penalty,
                          .early_stopping = early_stopping,
                          .cancel = cancel};
  const SignalCheck check;
  const std::vector<BeamResult> results = unlocked([&] { return engine.beam_search(beams, check); });
  py::list out;
  for (const BeamResult& one : results) {
    out.append(py::make_tuple(one.tokens, one.score, static_cast<int>(one.finish_reason)));
  }
  return out;
}

Past as_past(const Engine& engine, const PastArrays& arrays, int64_t batch) {
  const EngineOptions& options = engine.options();
  if (static_cast<int64_t>(arrays.size()) != options.n_layer) {
    throw std::invalid_argument("past must have " + std::to_string(options.n_layer) + " arrays, got " +
                                std::to_string(arrays.size()));
  }
  Past past{.batch = batch, .tokens = 0, .layers = {}};
  for (const FloatArray& array : arrays) {
    const bool fits = array.ndim() == 5 && array.shape(0) == 2 && array.shape(1) == batch &&
                      array.shape(2) == options.n_head && array.shape(4) == options.head_dim &&
                      (past.layers.empty() || array.shape(3) == past.tokens);
    if (!fits) {
      throw std::invalid_argument("past arrays must all have the shape [2, " + std::to_string(batch) + ", " +
                                  std::to_string(options.n_head) + ", tokens, " +
                                  std::to_string(options.head_dim) + "]");
    }
    past.tokens = array.shape(3);
    past.layers.push_back(array.data());
  }
  return past;
}

// Sequences must be equally long when the past is wanted or given.
py::tuple forward(Engine& engine, const Sequences& sequences, const std::optional<PastArrays>& past_arrays,
                  bool want_past) {
  const EngineOptions& options = engine.options();
  const auto batch = static_cast<int64_t>(sequences.size());
  ForwardRequest request{.sequences = as_spans(sequences), .past = {}, .hidden = {}, .new_past = {}};
  if (past_arrays) request.past = as_past(engine, *past_arrays, batch);

  std::vector<FloatArray> hidden;
  std::vector<float*> hidden_data;
  for (const Int32Array& one : sequences) {
    hidden.emplace_back(std::vector<py::ssize_t>{one.size(), static_cast<py::ssize_t>(engine.n_embd())});
    hidden_data.push_back(hidden.back().mutable_data());
  }
  request.hidden = [&](int64_t sequence) { return hidden_data[static_cast<size_t>(sequence)]; };

  py::object new_past = py::none();
  if (want_past) {
    for (const Int32Array& one : sequences) {
      if (one.size() != sequences[0].size())
        throw std::invalid_argument("a past needs equally long sequences");
    }
    const int64_t tokens = (request.past ? request.past->tokens : 0) + (batch > 0 ? sequences[0].size() : 0);
    py::list arrays;
    for (int64_t layer = 0; layer < options.n_layer; ++layer) {
      FloatArray array(std::vector<py::ssize_t>{2, batch, options.n_head, tokens, options.head_dim});
      request.new_past.push_back(array.mutable_data());
      arrays.append(std::move(array));
    }
    new_past = std::move(arrays);
  }
  const SignalCheck check;
  {
    const py::gil_scoped_release release;
    engine.forward(request, check);
  }
  return py::make_tuple(py::cast(hidden), new_past);
}

std::vector<FloatArray> logits(Engine& engine, const Sequences& sequences,
                               const std::optional<std::vector<Int64Array>>& rows) {
  LogitsRequest request{.sequences = as_spans(sequences), .rows = {}, .take = {}};
  std::vector<FloatArray> out;
  std::vector<float*> next;
  const auto vocabulary = static_cast<py::ssize_t>(engine.options().vocab_size);
  if (rows && rows->size() != sequences.size())
    throw std::invalid_argument("rows must have one array per sequence");
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (rows) request.rows.push_back(as_span((*rows)[i]));
    out.emplace_back(std::vector<py::ssize_t>{rows ? (*rows)[i].size() : sequences[i].size(), vocabulary});
    next.push_back(out.back().mutable_data());
  }
  request.take = [&](int64_t sequence, int64_t, std::span<const float> scores) {
    float*& target = next[static_cast<size_t>(sequence)];
    target = std::copy(scores.begin(), scores.end(), target);
  };
  const SignalCheck check;
  const py::gil_scoped_release release;
  engine.logits(request, check);
  return out;
}

std::vector<Logprobs> score_all(Engine& engine, const Sequences& sequences, const std::vector<int64_t>& first,
                                int32_t top) {
  if (first.size() != sequences.size()) throw std::invalid_argument("first must have one index per sequence");
  const auto spans = as_spans(sequences);
  const SignalCheck check;
  return unlocked([&] { return engine.score(spans, first, top, check); });
}

py::list score(Engine& engine, const Sequences& sequences, const std::vector<int64_t>& first) {
  py::list arrays;
  for (const Logprobs& one : score_all(engine, sequences, first, 0)) arrays.append(to_array(one.chosen));
  return arrays;
}

py::list score_continuations(Engine& engine, const Int32Array& prompt, const Sequences& continuations,
                             const std::shared_ptr<Prefix>& prefix) {
  const auto spans = as_spans(continuations);
  const auto tokens = as_span(prompt);
  const SignalCheck check;
  py::list arrays;
  for (const auto& one :
       unlocked([&] { return engine.score_continuations(tokens, spans, prefix.get(), check); })) {
    arrays.append(to_array(one));
  }
  return arrays;
}

// Chosen [tokens], the likeliest ids [tokens, k], theirs [tokens, k].
py::tuple as_arrays(const Logprobs& values) {
  const auto tokens = static_cast<py::ssize_t>(values.chosen.size());
  const auto k = tokens > 0 ? static_cast<py::ssize_t>(values.top_ids.size()) / tokens : 0;
  return py::make_tuple(to_array(values.chosen), to_array(values.top_ids).reshape({tokens, k}),
                        to_array(values.top_values).reshape({tokens, k}));
}

py::tuple logprobs(const Run& run, int64_t index) {
  return as_arrays(unlocked([&] { return run.logprobs(index); }));
}

py::list token_logprobs(Engine& engine, const Sequences& sequences, const std::vector<int64_t>& first,
                        int32_t top) {
  py::list values;
  for (const Logprobs& one : score_all(engine, sequences, first, top)) values.append(as_arrays(one));
  return values;
}

// Tuples of Progress's fields.
py::list advance(Run& run) {
  const SignalCheck check;
  const std::vector<Progress> progress = unlocked([&] { return run.advance(check); });
  py::list out(progress.size());
  for (size_t i = 0; i < progress.size(); ++i) {
    const Progress& one = progress[i];
    out[i] = py::make_tuple(one.index, one.new_tokens, static_cast<int>(one.finish_reason), one.safe_bytes);
  }
  return out;
}

void register_run(py::module_& module) {
  using Release = py::call_guard<py::gil_scoped_release>;
  const auto finish = [](Run& run) {
    const SignalCheck check;
    unlocked([&] { run.finish(check); });
  };
  const auto finish_reason = [](const Run& run, int64_t index) {
    return static_cast<int>(unlocked([&] { return run.finish_reason(index); }));
  };
  py::class_<Run>(module, "Run")
      .def("__len__", &Run::size)
      .def("advance", &advance)
      .def("finish", finish)
      .def("cancel", &Run::cancel)
      .def("close", &Run::close, Release())
      .def("token_ids", &Run::output, py::arg("index"), Release())
      .def("finish_reason", finish_reason, py::arg("index"))
      .def("safe_bytes", &Run::safe_bytes, py::arg("index"), Release())
      .def("cached_tokens", &Run::cached_tokens, py::arg("index"), Release())
      .def("logprobs", &logprobs, py::arg("index"));
}

}  // namespace

void register_engine(py::module_& module) {
  register_run(module);
  py::class_<CancelFlag, std::shared_ptr<CancelFlag>>(module, "CancelFlag")
      .def(py::init<>())
      .def("cancel", &CancelFlag::cancel);
  py::class_<Engine, std::shared_ptr<Engine>>(module, "Engine")
      .def(py::init(&make_engine), py::arg("model_path"), py::kw_only(), py::arg("n_layer"),
           py::arg("n_head"), py::arg("head_dim"), py::arg("n_positions"), py::arg("vocab_size"),
           py::arg("cache_format"), py::arg("threads"), py::arg("max_sequences"), py::arg("max_step_tokens"),
           py::arg("prefix_cache_bytes") = 0)
      .def_property_readonly("threads", [](const Engine& engine) { return engine.options().threads; })
      .def_property_readonly("max_sequences",
                             [](const Engine& engine) { return engine.options().max_sequences; })
      .def_property_readonly("cache_bytes_per_sequence", &Engine::cache_bytes_per_sequence)
      .def("start", &start, py::arg("requests"))
      .def("beam_search", &beam_search, py::arg("request"), py::kw_only(), py::arg("num_beams"),
           py::arg("num_return_sequences") = 1, py::arg("length_penalty") = 1.0,
           py::arg("early_stopping") = 0, py::arg("cancel") = py::none())
      .def("forward", &forward, py::arg("sequences"), py::arg("past") = py::none(),
           py::arg("want_past") = true)
      .def("logits", &logits, py::arg("sequences"), py::arg("rows") = py::none())
      .def("score", &score, py::arg("sequences"), py::arg("first"))
      .def("token_logprobs", &token_logprobs, py::arg("sequences"), py::arg("first"), py::arg("top"))
      .def("score_continuations", &score_continuations, py::arg("prompt"), py::arg("continuations"),
           py::arg("prefix") = py::none())
      .def("clear_prefix_cache", &Engine::clear_prefix_cache, py::call_guard<py::gil_scoped_release>());
}

}  // namespace gpt2fast::bindings
