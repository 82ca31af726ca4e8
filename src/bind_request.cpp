// The options of one sequence, and the numbers that stand for finish reasons.
#include <memory>
#include <utility>
#include <vector>

#include "bindings.h"
#include "choice_hook.h"
#include "gpt2fast/engine.h"

namespace gpt2fast::bindings {

namespace {

// A binding for `request.member.field`.
template <typename Class, typename Part, typename Field>
void field(py::class_<Class, std::shared_ptr<Class>>& type, const char* name, Part Class::* part,
           Field Part::* member) {
  type.def_property(
      name, [part, member](const Class& self) { return self.*part.*member; },
      [part, member](Class& self, const Field& value) { self.*part.*member = value; });
}

std::vector<py::bytes> stop_strings(const Request& request) {
  return {request.stop.stop_strings.begin(), request.stop.stop_strings.end()};
}

void set_stop_strings(Request& request, const std::vector<py::bytes>& strings) {
  request.stop.stop_strings.assign(strings.begin(), strings.end());
}

void register_finish_reasons(py::module_& module) {
  module.attr("FINISH_NONE") = static_cast<int>(FinishReason::kNone);
  module.attr("FINISH_LENGTH") = static_cast<int>(FinishReason::kLength);
  module.attr("FINISH_STOP") = static_cast<int>(FinishReason::kStop);
  module.attr("FINISH_EOS") = static_cast<int>(FinishReason::kEos);
  module.attr("FINISH_TIME") = static_cast<int>(FinishReason::kTime);
  module.attr("FINISH_CANCELLED") = static_cast<int>(FinishReason::kCancelled);
  module.attr("FINISH_CONSTRAINT") = static_cast<int>(FinishReason::kConstraint);
}

std::shared_ptr<Prefix> make_prefix(const Int32Array& tokens, const std::vector<FloatArray>& layers) {
  auto prefix = std::make_shared<Prefix>();
  prefix->tokens.assign(tokens.data(), tokens.data() + tokens.size());
  for (const FloatArray& layer : layers)
    prefix->layers.emplace_back(layer.data(), layer.data() + layer.size());
  return prefix;
}

// Offsets are any buffer of int32 [tokens + 1].
std::shared_ptr<TokenBytes> make_token_bytes(std::string data, const py::buffer& offsets,
                                             const std::vector<int32_t>& silent) {
  const py::buffer_info info = offsets.request();
  if (info.ndim != 1 || info.format != py::format_descriptor<int32_t>::format() ||
      info.strides[0] != sizeof(int32_t)) {
    throw std::invalid_argument("offsets must be contiguous int32 [tokens + 1]");
  }
  const auto* first = static_cast<const int32_t*>(info.ptr);
  return std::make_shared<TokenBytes>(std::move(data), std::vector<int32_t>(first, first + info.size),
                                      silent);
}

}  // namespace

void register_request(py::module_& module) {
  register_finish_reasons(module);
  module.def(
      "next_token_distribution",
      [](const Request& request, const Int32Array& output, const FloatArray& logits) {
        return to_array(next_token_distribution(request, as_span(output), as_span(logits)));
      },
      py::arg("request"), py::arg("output"), py::arg("logits"));
  py::class_<Prefix, std::shared_ptr<Prefix>>(module, "Prefix")
      .def(py::init(&make_prefix), py::arg("tokens"), py::arg("layers"));
  py::class_<TokenBytes, std::shared_ptr<TokenBytes>>(module, "TokenBytes")
      .def(py::init([](const py::bytes& data, const py::buffer& offsets, const std::vector<int32_t>& silent) {
             return make_token_bytes(data, offsets, silent);
           }),
           py::arg("data"), py::arg("offsets"), py::arg("silent"));
  py::class_<Request, std::shared_ptr<Request>> type(module, "Request");
  type.def(py::init<>());
  type.def_readwrite("prompt", &Request::prompt);
  const auto sampling = [&](const char* name, auto member) { field(type, name, &Request::sampling, member); };
  sampling("do_sample", &SamplingOptions::do_sample);
  sampling("seed", &SamplingOptions::seed);
  sampling("temperature", &SamplingOptions::temperature);
  sampling("top_k", &SamplingOptions::top_k);
  sampling("top_p", &SamplingOptions::top_p);
  sampling("min_p", &SamplingOptions::min_p);
  sampling("typical_p", &SamplingOptions::typical_p);
  sampling("repetition_penalty", &SamplingOptions::repetition_penalty);
  sampling("presence_penalty", &SamplingOptions::presence_penalty);
  sampling("frequency_penalty", &SamplingOptions::frequency_penalty);
  sampling("no_repeat_ngram_size", &SamplingOptions::no_repeat_ngram_size);
  sampling("min_new_tokens", &SamplingOptions::min_new_tokens);
  sampling("suppress_tokens", &SamplingOptions::suppress_tokens);
  sampling("bad_words", &SamplingOptions::bad_words);
  sampling("logit_bias", &SamplingOptions::logit_bias);
  sampling("forced_prefix", &SamplingOptions::forced_prefix);
  const auto stopping = [&](const char* name, auto member) { field(type, name, &Request::stop, member); };
  stopping("max_new_tokens", &StopOptions::max_new_tokens);
  stopping("eos_token_ids", &StopOptions::eos_token_ids);
  stopping("include_stop_string", &StopOptions::include_stop_string);
  stopping("max_seconds", &StopOptions::max_seconds);
  type.def_property("stop_strings", &stop_strings, &set_stop_strings);
  type.def_property("token_bytes", nullptr, [](Request& self, std::shared_ptr<TokenBytes> token_bytes) {
    self.stop.token_bytes = std::move(token_bytes);
  });
  type.def_readwrite("logprobs", &Request::logprobs);
  type.def_readwrite("prompt_lookup_num_tokens", &Request::prompt_lookup_num_tokens);
  type.def_readwrite("slide", &Request::slide);
  type.def_readwrite("num_assistant_tokens", &Request::num_assistant_tokens);
  type.def_property("assistant", nullptr, [](Request& self, std::shared_ptr<Engine> engine) {
    self.assistant = std::move(engine);
  });
  type.def_property("prefix", nullptr,
                    [](Request& self, std::shared_ptr<Prefix> prefix) { self.prefix = std::move(prefix); });
  type.def_readwrite("use_prefix_cache", &Request::use_prefix_cache);
  type.def(
      "set_hooks",
      [](Request& self, const py::object& allowed_tokens, const py::object& process_scores,
         const py::object& is_complete) {
        self.hook = make_choice_hook(allowed_tokens, process_scores, is_complete);
      },
      py::kw_only(), py::arg("allowed_tokens") = py::none(), py::arg("process_scores") = py::none(),
      py::arg("is_complete") = py::none());
}

}  // namespace gpt2fast::bindings
