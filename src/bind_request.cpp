// The arguments of a call: options that its texts share, requests, and what both refer to.
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "bindings.h"
#include "choice_hook.h"
#include "gpt2fast/engine.h"

namespace gpt2fast::bindings {

namespace {

using OptionsClass = py::class_<GenerationOptions, std::shared_ptr<GenerationOptions>>;

// Binds the member of a part of the options as an attribute of the options themselves.
template <typename Part, typename Field>
void field(OptionsClass& type, const char* name, Part GenerationOptions::* part, Field Part::* member) {
  type.def_property(
      name, [part, member](const GenerationOptions& self) { return self.*part.*member; },
      [part, member](GenerationOptions& self, const Field& value) { self.*part.*member = value; });
}

std::vector<py::bytes> stop_strings(const GenerationOptions& options) {
  return {options.stop.stop_strings.begin(), options.stop.stop_strings.end()};
}

void set_stop_strings(GenerationOptions& options, const std::vector<py::bytes>& strings) {
  options.stop.stop_strings.assign(strings.begin(), strings.end());
}

// Never released: results may be read until the very end.
std::array<py::handle, static_cast<size_t>(FinishReason::kConstraint) + 1> finish_reasons;

void register_enumerations(py::module_& module) {
  py::enum_<FinishReason>(module, "FinishReason")
      .value("NONE", FinishReason::kNone)
      .value("LENGTH", FinishReason::kLength)
      .value("STOP", FinishReason::kStop)
      .value("EOS", FinishReason::kEos)
      .value("TIME", FinishReason::kTime)
      .value("CANCELLED", FinishReason::kCancelled)
      .value("CONSTRAINT", FinishReason::kConstraint);
  for (size_t i = 0; i < finish_reasons.size(); ++i) {
    finish_reasons[i] = py::cast(static_cast<FinishReason>(i)).release();
  }
  py::enum_<EarlyStopping>(module, "EarlyStopping")
      .value("FALSE", EarlyStopping::kFalse)
      .value("TRUE", EarlyStopping::kTrue)
      .value("NEVER", EarlyStopping::kNever);
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

void register_options(py::module_& module) {
  OptionsClass type(module, "GenerationOptions");
  type.def(py::init<>());
  const auto sampling = [&](const char* name, auto member) {
    field(type, name, &GenerationOptions::sampling, member);
  };
  sampling("do_sample", &SamplingOptions::do_sample);
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
  const auto stopping = [&](const char* name, auto member) {
    field(type, name, &GenerationOptions::stop, member);
  };
  stopping("max_new_tokens", &StopOptions::max_new_tokens);
  stopping("eos_token_ids", &StopOptions::eos_token_ids);
  stopping("include_stop_string", &StopOptions::include_stop_string);
  stopping("stop_begins_in_prompt", &StopOptions::stop_begins_in_prompt);
  type.def_property("stop_strings", &stop_strings, &set_stop_strings);
  type.def_property("token_bytes", nullptr,
                    [](GenerationOptions& self, std::shared_ptr<TokenBytes> token_bytes) {
                      self.stop.token_bytes = std::move(token_bytes);
                    });
  type.def_property("assistant", nullptr, [](GenerationOptions& self, std::shared_ptr<Engine> engine) {
    self.assistant = std::move(engine);
  });
  type.def_property("prefix", nullptr, [](GenerationOptions& self, std::shared_ptr<Prefix> prefix) {
    self.prefix = std::move(prefix);
  });
  type.def_readwrite("logprobs", &GenerationOptions::logprobs)
      .def_readwrite("prompt_lookup_num_tokens", &GenerationOptions::prompt_lookup_num_tokens)
      .def_readwrite("slide", &GenerationOptions::slide)
      .def_readwrite("use_prefix_cache", &GenerationOptions::use_prefix_cache)
      .def_readwrite("prefix_scope", &GenerationOptions::prefix_scope)
      .def_readwrite("num_assistant_tokens", &GenerationOptions::num_assistant_tokens)
      .def_readwrite("num_beams", &GenerationOptions::num_beams)
      .def_readwrite("num_return_sequences", &GenerationOptions::num_return_sequences)
      .def_readwrite("length_penalty", &GenerationOptions::length_penalty)
      .def_readwrite("early_stopping", &GenerationOptions::early_stopping);
}

}  // namespace

py::object as_object(FinishReason reason) {
  return py::reinterpret_borrow<py::object>(finish_reasons[static_cast<size_t>(reason)]);
}

void register_request(py::module_& module) {
  register_enumerations(module);
  py::class_<Prefix, std::shared_ptr<Prefix>>(module, "Prefix")
      .def(py::init(&make_prefix), py::arg("tokens"), py::arg("layers"));
  py::class_<TokenBytes, std::shared_ptr<TokenBytes>>(module, "TokenBytes")
      .def(py::init([](const py::bytes& data, const py::buffer& offsets, const std::vector<int32_t>& silent) {
             return make_token_bytes(data, offsets, silent);
           }),
           py::arg("data"), py::arg("offsets"), py::arg("silent"));
  register_options(module);
  py::class_<Request, std::shared_ptr<Request>>(module, "Request", py::dynamic_attr())
      .def(py::init([](std::vector<int32_t> prompt, uint64_t seed) {
             return Request{.prompt = std::move(prompt), .seed = seed, .hook = nullptr};
           }),
           py::arg("prompt"), py::arg("seed") = 0)
      .def_readonly("prompt", &Request::prompt)
      .def_readonly("seed", &Request::seed)
      .def(
          "set_hooks",
          [](const py::object& self, const py::object& hooks) {
            self.attr("hooks") = hooks;  // which the core refers to weakly
            py::cast<Request&>(self).hook = make_choice_hook(hooks);
          },
          py::arg("hooks"));
  module.def(
      "next_token_distribution",
      [](const Request& request, const GenerationOptions& options, const Int32Array& output,
         const FloatArray& logits) {
        return to_array(next_token_distribution(request, options, as_span(output), as_span(logits)));
      },
      py::arg("request"), py::arg("options"), py::arg("output"), py::arg("logits"));
}

}  // namespace gpt2fast::bindings
