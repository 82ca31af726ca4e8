// Weights in and out of the kernels' layout.
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "gil.h"
#include "gpt2fast/weights.h"

namespace gpt2fast::bindings {

namespace {

void check_feedback(const char* name, const FloatArray& array) {
  if (array.ndim() == 3 && array.shape(1) == kFeedbackRows && array.shape(2) == kFeedbackRows) return;
  throw std::invalid_argument(std::string(name) + " must be of shape [blocks, 1024, 1024]");
}

FloatArray error_feedback(const FloatArray& moments) {
  check_feedback("moments", moments);
  FloatArray feedback({moments.shape(0), moments.shape(1), moments.shape(2)});
  const float* source = moments.data();
  float* target = feedback.mutable_data();
  const Unlocked scope;
  weight_feedback(source, moments.shape(0), target);
  return feedback;
}

ByteArray pack_linear(const FloatArray& weight, int32_t format, bool transposed, int threads,
                      const std::optional<FloatArray>& feedback) {
  if (weight.ndim() != 2) {
    throw std::invalid_argument("weight must have 2 dimensions, got " + std::to_string(weight.ndim()));
  }
  if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
  const int64_t rows = weight.shape(0);
  const int64_t columns = weight.shape(1);
  const int64_t in_features = transposed ? columns : rows;
  const int64_t out_features = transposed ? rows : columns;
  const auto kind = static_cast<WeightFormat>(format);
  if (feedback) {
    check_feedback("feedback", *feedback);
    const int64_t blocks = (in_features + kFeedbackRows - 1) / kFeedbackRows;
    if (kind != WeightFormat::kInt4 || feedback->shape(0) != blocks) {
      throw std::invalid_argument("feedback must have a block for every 1024 rows of an int4 weight");
    }
  }
  const float* shares = feedback ? feedback->data() : nullptr;
  ByteArray packed(static_cast<py::ssize_t>(packed_weight_bytes(kind, in_features, out_features)));
  const float* source = weight.data();
  uint8_t* target = packed.mutable_data();
  const int64_t stride_in = transposed ? 1 : columns;
  const int64_t stride_out = transposed ? columns : 1;
  const Unlocked scope;
  pack_weight(kind, source, stride_in, stride_out, in_features, out_features, threads, target, shares);
  return packed;
}

FloatArray unpack_linear(const ByteArray& packed, int32_t format, int64_t in_features, int64_t first_column,
                         int64_t columns) {
  if (first_column < 0 || columns < 1) {
    throw std::invalid_argument("first_column must be at least 0 and columns at least 1");
  }
  const auto kind = static_cast<WeightFormat>(format);
  const size_t needed = packed_weight_bytes(kind, in_features, first_column + columns);
  if (static_cast<size_t>(packed.size()) < needed) {
    throw std::invalid_argument("packed has " + std::to_string(packed.size()) +
                                " bytes; these columns need " + std::to_string(needed));
  }
  FloatArray out({columns, in_features});
  float* target = out.mutable_data();
  const Unlocked scope;
  for (int64_t i = 0; i < columns; ++i) {
    unpack_column(kind, packed.data(), in_features, first_column + i, target + i * in_features);
  }
  return out;
}

}  // namespace

void register_packing(py::module_& module) {
  module.attr("FORMAT_FLOAT32") = static_cast<int>(WeightFormat::kFloat32);
  module.attr("FORMAT_BFLOAT16") = static_cast<int>(WeightFormat::kBFloat16);
  module.attr("FORMAT_INT8") = static_cast<int>(WeightFormat::kInt8);
  module.attr("FORMAT_INT4") = static_cast<int>(WeightFormat::kInt4);
  module.def(
      "packed_weight_bytes",
      [](int32_t format, int64_t in_features, int64_t out_features) {
        return packed_weight_bytes(static_cast<WeightFormat>(format), in_features, out_features);
      },
      py::arg("format"), py::arg("in_features"), py::arg("out_features"));
  module.def("pack_linear", &pack_linear, py::arg("weight").noconvert(), py::arg("format"), py::kw_only(),
             py::arg("transposed") = false, py::arg("threads") = 1,
             py::arg("feedback").noconvert() = py::none());
  module.def("error_feedback", &error_feedback, py::arg("moments").noconvert());
  module.def("unpack_linear", &unpack_linear, py::arg("packed").noconvert(), py::arg("format"),
             py::arg("in_features"), py::arg("first_column"), py::arg("columns"));
}

}  // namespace gpt2fast::bindings
