// What kernel tests share: aligned bytes, random values, comparison by bits, the instruction sets at hand.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "gpt2fast/weights.h"
#include "kernels/isa.h"
#include "kernels/workspace.h"

namespace gpt2fast::testing {

inline constexpr WeightFormat kWeightFormats[] = {WeightFormat::kFloat32, WeightFormat::kBFloat16,
                                                  WeightFormat::kInt8, WeightFormat::kInt4};

// Bytes at a 64-byte boundary, followed by nothing that belongs to the program, so that sanitizers see
// overruns.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t size) : size_(size), data_(::operator new(size + 1, std::align_val_t{64})) {
    std::memset(data_, 0, size_);
  }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  ~AlignedBytes() { ::operator delete(data_, std::align_val_t{64}); }

  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  size_t size() const { return size_; }

 private:
  size_t size_;
  void* data_;
};

// A kernel's scratch of exactly the size that it asks for, so that AddressSanitizer sees it go beyond.
class TestWorkspace {
 public:
  explicit TestWorkspace(const WorkspaceSize& size)
      : stride_((size.bytes + 63) / 64 * 64),
        bytes_(static_cast<size_t>(size.parts - 1) * stride_ + size.bytes) {}

  WorkspaceParts parts() const { return {bytes_.data(), stride_}; }

 private:
  size_t stride_;
  AlignedBytes bytes_;
};

inline std::vector<float> random_normal(int64_t count, float deviation, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

// Equal bits, or both NaN.
inline bool same_float(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

inline int64_t count_different(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return static_cast<int64_t>(a.size() + b.size());
  int64_t different = 0;
  for (size_t i = 0; i < a.size(); ++i) different += same_float(a[i], b[i]) ? 0 : 1;
  return different;
}

inline std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kAllIsas) {
    if (isa_is_available(isa)) isas.push_back(isa);
  }
  return isas;
}

}  // namespace gpt2fast::testing
