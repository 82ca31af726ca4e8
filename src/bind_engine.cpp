// The engine. Each of its methods that does work starts a call.
#include <stdexcept>
#include <string>
#include <utility>

#include "calls.h"
#include "choice_hook.h"

namespace gpt2fast::bindings {

namespace {

using Sequences = std::vector<Int32Array>;
// One array per layer, [2, batch, heads, tokens, head_dim].
using PastArrays = std::vector<FloatArray>;
using Queue = std::shared_ptr<ReadyQueue>;

std::vector<std::span<const int32_t>> as_spans(const Sequences& sequences) {
  std::vector<std::span<const int32_t>> spans;
  spans.reserve(sequences.size());
  for (const Int32Array& one : sequences) spans.push_back(as_span(one));
  return spans;
}

std::vector<std::vector<int32_t>> as_vectors(const Sequences& sequences) {
  std::vector<std::vector<int32_t>> vectors;
  vectors.reserve(sequences.size());
  for (const Int32Array& one : sequences) vectors.emplace_back(one.data(), one.data() + one.size());
  return vectors;
}

CallOptions call_options(Queue queue, uint64_t key) {
  CallOptions options;
  options.held = queue != nullptr;
  options.ready_queue = std::move(queue);
  options.key = key;
  return options;
}

// Name, whether it is packed, shape, and offset in the file.
using StoredTensors = std::vector<std::tuple<std::string, bool, std::vector<int64_t>, int64_t>>;

ModelFiles model_files(const py::bytes& graph, const std::string& name, const std::string& weights_path,
                       const StoredTensors& tensors) {
  ModelFiles files{.name = name, .graph = graph, .weights_path = weights_path, .tensors = {}};
  files.tensors.reserve(tensors.size());
  for (const auto& [tensor, is_packed, shape, offset] : tensors) {
    files.tensors.push_back({tensor, is_packed, shape, offset});
  }
  return files;
}

std::shared_ptr<Engine> make_engine(const py::bytes& graph, const std::string& name,
                                    const std::string& weights_path, const StoredTensors& tensors,
                                    int64_t n_layer, int64_t n_head, int64_t head_dim, int64_t n_positions,
                                    int64_t vocab_size, CacheFormat cache_format, int threads,
                                    int64_t max_sequences, int64_t max_step_tokens,
                                    int64_t prefix_cache_bytes, int64_t max_waiting, int64_t read_ahead,
                                    double decode_slowdown) {
  const EngineOptions options{.model = model_files(graph, name, weights_path, tensors),
                              .n_layer = n_layer,
                              .n_head = n_head,
                              .head_dim = head_dim,
                              .n_positions = n_positions,
                              .vocab_size = vocab_size,
                              .cache_format = cache_format,
                              .threads = threads,
                              .max_sequences = max_sequences,
                              .max_step_tokens = max_step_tokens,
                              .prefix_cache_bytes = prefix_cache_bytes,
                              .max_waiting = max_waiting,
                              .read_ahead = read_ahead,
                              .decode_slowdown = decode_slowdown,
                              .with_host_lock = &with_lock_for_hooks};
  std::shared_ptr<Engine> engine = unlocked([&] { return Engine::create(options); });
  // The last reference may be dropped while Python's lock is held, which the engine's threads may wait for.
  Engine* const pointer = engine.get();
  return {pointer, [engine = std::move(engine)](Engine*) mutable { reset_unlocked(engine); }};
}

py::object generate(Engine& engine, const py::sequence& requests,
                    const std::shared_ptr<GenerationOptions>& options, int32_t priority, double max_seconds,
                    bool cancelled, bool streamed, Queue queue, uint64_t key) {
  std::vector<Request> copies;
  copies.reserve(requests.size());
  for (const py::handle request : requests) copies.push_back(py::cast<const Request&>(request));
  CallOptions call = call_options(std::move(queue), key);
  call.priority = priority;
  call.max_seconds = max_seconds;
  call.cancelled = cancelled;
  call.streamed = streamed;
  py::object generation = py::cast(std::make_unique<PythonGeneration>(
      unlocked([&] { return engine.generate(std::move(copies), options, call); })));
  generation.attr("requests") = py::tuple(requests);  // the core refers to their hooks weakly
  return generation;
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

// New arrays for the keys and values of equally long sequences, and where the core writes them.
py::object make_new_past(const Engine& engine, const Sequences& sequences, ForwardRequest& request) {
  const EngineOptions& options = engine.options();
  for (const Int32Array& one : sequences) {
    if (one.size() != sequences[0].size()) throw std::invalid_argument("a past needs equally long sequences");
  }
  const auto batch = static_cast<int64_t>(sequences.size());
  const int64_t tokens = (request.past ? request.past->tokens : 0) + (batch > 0 ? sequences[0].size() : 0);
  py::list arrays;
  for (int64_t layer = 0; layer < options.n_layer; ++layer) {
    FloatArray array(std::vector<py::ssize_t>{2, batch, options.n_head, tokens, options.head_dim});
    request.new_past.push_back(array.mutable_data());
    arrays.append(std::move(array));
  }
  return arrays;
}

// Sequences must be equally long when the past is wanted or given.
std::unique_ptr<PythonCall> forward(Engine& engine, const Sequences& sequences,
                                    const std::optional<PastArrays>& past_arrays, bool want_past,
                                    std::vector<int64_t> layers, Queue queue, uint64_t key) {
  ForwardRequest request{.sequences = as_spans(sequences),
                         .past = {},
                         .layers = std::move(layers),
                         .hidden = {},
                         .layer_inputs = {},
                         .new_past = {}};
  if (past_arrays) request.past = as_past(engine, *past_arrays, static_cast<int64_t>(sequences.size()));
  std::vector<FloatArray> hidden;
  std::vector<FloatArray> layer_inputs;
  const auto width = static_cast<py::ssize_t>(engine.n_embd());
  const auto wanted = static_cast<py::ssize_t>(request.layers.size());
  for (const Int32Array& one : sequences) {
    hidden.emplace_back(std::vector<py::ssize_t>{one.size(), width});
    request.hidden.push_back(hidden.back().mutable_data());
    if (wanted == 0) continue;
    layer_inputs.emplace_back(std::vector<py::ssize_t>{wanted, one.size(), width});
    request.layer_inputs.push_back(layer_inputs.back().mutable_data());
  }
  const py::object new_past = want_past ? make_new_past(engine, sequences, request) : py::none();
  const py::tuple results = py::make_tuple(py::cast(hidden), new_past, py::cast(layer_inputs));
  auto call = unlocked([&] { return engine.forward(request, call_options(std::move(queue), key)); });
  return std::make_unique<PythonCall>(
      std::move(call),
      [results]() -> py::object { return results; },  // NOLINT(performance-no-automatic-move): called again
      py::make_tuple(sequences, past_arrays, results));
}

std::unique_ptr<PythonCall> logits(Engine& engine, const Sequences& sequences,
                                   const std::optional<std::vector<Int64Array>>& rows, Queue queue,
                                   uint64_t key) {
  LogitsRequest request{.sequences = as_spans(sequences), .rows = {}, .logits = {}};
  const auto vocabulary = static_cast<py::ssize_t>(engine.options().vocab_size);
  if (rows && rows->size() != sequences.size())
    throw std::invalid_argument("rows must have one array per sequence");
  py::list arrays;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (rows) request.rows.push_back(as_span((*rows)[i]));
    FloatArray array(std::vector<py::ssize_t>{rows ? (*rows)[i].size() : sequences[i].size(), vocabulary});
    request.logits.push_back(array.mutable_data());
    arrays.append(std::move(array));
  }
  auto call = unlocked([&] { return engine.logits(request, call_options(std::move(queue), key)); });
  return std::make_unique<PythonCall>(
      std::move(call), [arrays]() -> py::object { return arrays; }, py::make_tuple(sequences, rows, arrays));
}

// Each sequence's values as as_arrays() gives them.
std::unique_ptr<PythonCall> as_python(std::unique_ptr<ScoreCall> call) {
  ScoreCall* const scores = call.get();
  return std::make_unique<PythonCall>(std::move(call), [scores]() -> py::object {
    py::list values;
    for (const Logprobs& one : scores->results()) values.append(as_arrays(one));
    return values;
  });
}

std::unique_ptr<PythonCall> score(Engine& engine, const Sequences& sequences, std::vector<int64_t> first,
                                  int32_t top, Queue queue, uint64_t key) {
  ScoreRequest request{.sequences = as_vectors(sequences), .first = std::move(first), .top = top};
  return as_python(
      unlocked([&] { return engine.score(std::move(request), call_options(std::move(queue), key)); }));
}

std::unique_ptr<PythonCall> score_continuations(Engine& engine, const Int32Array& prompt,
                                                const Sequences& continuations,
                                                std::shared_ptr<Prefix> prefix, uint64_t prefix_scope,
                                                Queue queue, uint64_t key) {
  ContinuationsRequest request{.prompt = {prompt.data(), prompt.data() + prompt.size()},
                               .continuations = as_vectors(continuations),
                               .prefix = std::move(prefix),
                               .prefix_scope = prefix_scope};
  return as_python(unlocked(
      [&] { return engine.score_continuations(std::move(request), call_options(std::move(queue), key)); }));
}

py::dict stats(const Engine& engine) {
  const EngineStats values = engine.stats();
  py::dict all;
  all["running"] = values.running;
  all["waiting"] = values.waiting;
  all["slots"] = values.slots;
  all["slots_used"] = values.slots_used;
  all["calls"] = values.calls;
  all["finished"] = values.finished;
  all["cancelled"] = values.cancelled;
  all["timed_out"] = values.timed_out;
  all["failed"] = values.failed;
  all["refused"] = values.refused;
  all["recomputed"] = values.recomputed;
  all["prompt_tokens"] = values.prompt_tokens;
  all["generated_tokens"] = values.generated_tokens;
  all["prefix_queries"] = values.prefix_queries;
  all["prefix_hits"] = values.prefix_hits;
  all["drafted_tokens"] = values.drafted_tokens;
  all["accepted_tokens"] = values.accepted_tokens;
  all["steps"] = values.steps;
  all["step_rows"] = values.step_rows;
  all["step_seconds"] = values.step_seconds;
  return all;
}

void register_work(py::class_<Engine, std::shared_ptr<Engine>>& type) {
  const auto queue = py::arg("queue") = py::none();
  const auto key = py::arg("key") = 0;
  type.def("generate", &generate, py::arg("requests"), py::arg("options"), py::kw_only(),
           py::arg("priority") = 0, py::arg("max_seconds") = 0.0, py::arg("cancelled") = false,
           py::arg("streamed") = false, queue, key)
      .def("forward", &forward, py::arg("sequences"), py::arg("past") = py::none(),
           py::arg("want_past") = true, py::arg("layers") = std::vector<int64_t>{}, py::kw_only(), queue, key)
      .def("logits", &logits, py::arg("sequences"), py::arg("rows") = py::none(), py::kw_only(), queue, key)
      .def("score", &score, py::arg("sequences"), py::arg("first"), py::arg("top") = 0, py::kw_only(), queue,
           key)
      .def("score_continuations", &score_continuations, py::arg("prompt"), py::arg("continuations"),
           py::arg("prefix") = py::none(), py::arg("prefix_scope") = 0, py::kw_only(), queue, key);
}

}  // namespace

void register_engine(py::module_& module) {
  register_calls(module);
  py::enum_<CacheFormat>(module, "CacheFormat")
      .value("FLOAT32", CacheFormat::kFloat32)
      .value("FLOAT16", CacheFormat::kFloat16)
      .value("INT8", CacheFormat::kInt8);
  py::class_<Engine, std::shared_ptr<Engine>> type(module, "Engine");
  type.def(py::init(&make_engine), py::arg("graph"), py::kw_only(), py::arg("name"), py::arg("weights_path"),
           py::arg("tensors"), py::arg("n_layer"), py::arg("n_head"), py::arg("head_dim"),
           py::arg("n_positions"), py::arg("vocab_size"), py::arg("cache_format"), py::arg("threads"),
           py::arg("max_sequences"), py::arg("max_step_tokens"), py::arg("prefix_cache_bytes") = 0,
           py::arg("max_waiting") = -1, py::arg("read_ahead") = 16, py::arg("decode_slowdown") = 2.0)
      .def_property_readonly("threads", [](const Engine& engine) { return engine.options().threads; })
      .def_property_readonly("max_sequences",
                             [](const Engine& engine) { return engine.options().max_sequences; })
      .def_property_readonly(
          "cache_bytes_per_sequence",
          [](const Engine& engine) { return unlocked([&] { return engine.cache_bytes_per_sequence(); }); })
      .def("clear_prefix_cache", &Engine::clear_prefix_cache, py::call_guard<Unlocked>())
      .def("stats", &stats)
      .def("close", &Engine::close, py::call_guard<Unlocked>());
  register_work(type);
  module.def("end_all_calls", &end_all_calls);
}

}  // namespace gpt2fast::bindings
