// Calls: waiting for them, and their results in one crossing.
#include <stdexcept>

#include "calls.h"

namespace gpt2fast::bindings {

namespace {

py::object arrays_or_none(const Logprobs& values) {
  if (values.chosen.empty()) return py::none();
  return as_arrays(values);
}

py::object as_tuples(const std::vector<std::vector<TextResult>>& results) {
  py::list all;
  for (const std::vector<TextResult>& of_request : results) {
    py::list texts;
    for (const TextResult& one : of_request) {
      texts.append(py::make_tuple(one.tokens, as_object(one.finish_reason), one.kept_bytes, one.cached_tokens,
                                  arrays_or_none(one.logprobs), one.score, one.started_seconds,
                                  one.first_token_seconds, one.last_token_seconds));
    }
    all.append(std::move(texts));
  }
  return all;
}

py::list as_tuples(const std::vector<Progress>& progress) {
  py::list all(progress.size());
  for (size_t i = 0; i < progress.size(); ++i) {
    const Progress& one = progress[i];
    all[i] = py::make_tuple(one.index, one.new_tokens, as_object(one.finish_reason), one.safe_bytes,
                            arrays_or_none(one.logprobs));
  }
  return all;
}

}  // namespace

py::tuple as_arrays(const Logprobs& values) {
  const auto tokens = static_cast<py::ssize_t>(values.chosen.size());
  const auto k = tokens > 0 ? static_cast<py::ssize_t>(values.top_ids.size()) / tokens : 0;
  return py::make_tuple(to_array(values.chosen), to_array(values.top_ids).reshape({tokens, k}),
                        to_array(values.top_values).reshape({tokens, k}));
}

PythonGeneration::PythonGeneration(std::unique_ptr<GenerationCall> call)
    : PythonCall(std::move(call), [this] { return as_tuples(generation().results()); }) {}

py::list PythonGeneration::take() { return as_tuples(generation().take()); }

py::list PythonGeneration::next() {
  const InterruptCheck check = interrupt_check();
  return as_tuples(unlocked([&] { return generation().next(check); }));
}

void register_calls(py::module_& module) {
  py::class_<ReadyQueue, std::shared_ptr<ReadyQueue>>(module, "ReadyQueue")
      .def(py::init(&ReadyQueue::create))
      .def("fileno", &ReadyQueue::file_descriptor)
      .def("take", &ReadyQueue::take)
      .def("wait",
           [](ReadyQueue& queue) {
             const InterruptCheck check = interrupt_check();
             unlocked([&] { queue.wait(check); });
           })
      .def("close", &ReadyQueue::close);
  py::class_<PythonCall>(module, "Call")
      .def("wait", &PythonCall::wait)
      .def("begin", &PythonCall::begin)
      .def("done", &PythonCall::done)
      .def("cancel", &PythonCall::cancel)
      .def("close", &PythonCall::close)
      .def("results", &PythonCall::results);
  py::class_<PythonGeneration, PythonCall>(module, "GenerationCall", py::dynamic_attr())
      .def("take", &PythonGeneration::take)
      .def("next", &PythonGeneration::next);
}

}  // namespace gpt2fast::bindings
