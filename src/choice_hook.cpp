// A caller's Python functions in the choice of a token.
#include "choice_hook.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace gpt2fast::bindings {

namespace {

using MaskArray = py::array_t<uint32_t, py::array::c_style>;

class PythonChoiceHook final : public ChoiceHook {
 public:
  PythonChoiceHook(py::object allowed_tokens, py::object process_scores, py::object is_complete)
      : allowed_tokens_(std::move(allowed_tokens)),
        process_scores_(std::move(process_scores)),
        is_complete_(std::move(is_complete)) {}

  // The last reference may be dropped on a thread without Python's lock.
  ~PythonChoiceHook() override {
    const py::gil_scoped_acquire acquire;
    allowed_tokens_ = py::object();
    process_scores_ = py::object();
    is_complete_ = py::object();
    mask_ = py::object();
  }

  const uint32_t* allowed_tokens(const TokenHistory& history, int64_t vocab_size) override {
    const py::gil_scoped_acquire acquire;
    if (allowed_tokens_.is_none()) return nullptr;
    const py::object mask = allowed_tokens_(view(history.output));
    if (mask.is_none()) return nullptr;
    const auto array = py::cast<MaskArray>(mask);
    const int64_t words = (vocab_size + 31) / 32;
    if (array.size() < words) {
      throw std::invalid_argument("allowed_tokens must return " + std::to_string(words) + " words, got " +
                                  std::to_string(array.size()));
    }
    mask_ = array;
    return array.data();
  }

  void process_scores(const TokenHistory& history, std::span<float> scores) override {
    const py::gil_scoped_acquire acquire;
    if (process_scores_.is_none()) return;
    // A base object keeps pybind11 from copying; the array is only good during the call, as documented.
    const py::array_t<float> array(static_cast<py::ssize_t>(scores.size()), scores.data(), py::none());
    process_scores_(view(history.prompt), view(history.output), array);
  }

  bool is_complete(const TokenHistory& history) override {
    const py::gil_scoped_acquire acquire;
    return !is_complete_.is_none() && py::cast<bool>(is_complete_(view(history.output)));
  }

 private:
  static py::array_t<int32_t> view(std::span<const int32_t> tokens) {
    return py::array_t<int32_t>(static_cast<py::ssize_t>(tokens.size()), tokens.data());
  }

  py::object allowed_tokens_;
  py::object process_scores_;
  py::object is_complete_;
  // The array that holds the last mask. It is not created with this object: the first use of arrays imports
  // NumPy, and the program could end meanwhile on a daemon thread. The threads that run hooks are waited for.
  py::object mask_;
};

}  // namespace

std::shared_ptr<ChoiceHook> make_choice_hook(const py::object& allowed_tokens,
                                             const py::object& process_scores,
                                             const py::object& is_complete) {
  if (allowed_tokens.is_none() && process_scores.is_none() && is_complete.is_none()) return nullptr;
  return std::make_shared<PythonChoiceHook>(allowed_tokens, process_scores, is_complete);
}

}  // namespace gpt2fast::bindings
