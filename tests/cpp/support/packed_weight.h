// Packed weights of reproducible values, for tests of operators.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/packing.h"
#include "support/kernel_testing.h"
#include "support/ort_testing.h"
#include "system/parallel.h"

namespace gpt2fast::testing {

inline std::vector<uint8_t> packed(WeightFormat format, int64_t in_features, int64_t out_features) {
  const std::vector<float> w = ramp(static_cast<size_t>(in_features * out_features), 3);
  std::vector<uint8_t> bytes(packed_weight_bytes(format, in_features, out_features));
  pack_columns(format, w.data(), out_features, 1, in_features, out_features, bytes.data(), Serial());
  return bytes;
}

// A vector's bytes at the alignment that kernels read weights with.
class Aligned {
 public:
  explicit Aligned(const std::vector<uint8_t>& bytes) : bytes_(bytes.size()) {
    std::memcpy(bytes_.data(), bytes.data(), bytes.size());
  }
  const uint8_t* data() const { return bytes_.data(); }

 private:
  AlignedBytes bytes_;
};

}  // namespace gpt2fast::testing
