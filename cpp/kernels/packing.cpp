// Packs weights into the panels that linear() streams, and unpacks them.
#include "kernels/packing.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/error_feedback.h"
#include "kernels/packing_int4.h"
#include "kernels/shards.h"

namespace gpt2fast {
namespace {

constexpr int64_t kInt8BlockBytes = kBlockRows * kPanelColumns;
constexpr int64_t kInt4BlockBytes = 4 * kPanelColumns + kInt8BlockBytes / 2;
constexpr int64_t kColumnScalesBytes = kPanelColumns * 4;  // at the start of panels of integers

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
int64_t block_count(int64_t in_features) { return round_up(in_features, kBlockRows) / kBlockRows; }

void check_size(const char* name, int64_t value) {
  if (value >= 1 && value <= kMaxFeatures) return;
  throw std::invalid_argument(std::string(name) + " must be in [1, " + std::to_string(kMaxFeatures) +
                              "], got " + std::to_string(value));
}

// Rounds to nearest even; a finite value stays finite.
uint16_t to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((rounded & 0x7fff) == 0x7f80 ? rounded - 1 : rounded);
}

float from_bfloat16(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// One panel's weights as columns, [16][padded rows], zero where the weight has no such column or row. It
// holds all memory that packing needs: threads that pack can't report that there is none.
class PanelColumns {
 public:
  explicit PanelColumns(int64_t in_features)
      : rows_(block_count(in_features) * kBlockRows),
        values_(static_cast<size_t>(rows_ * kPanelColumns)),
        mixed_(static_cast<size_t>(rows_)) {}

  // Returns whether all weights are finite.
  bool gather(const float* w, int64_t stride_in, int64_t stride_out, int64_t in_features, int64_t columns) {
    bool finite = true;
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      float* out = values_.data() + c * rows_;
      for (int64_t k = 0; k < in_features; ++k) {
        out[k] = c < columns ? w[k * stride_in + c * stride_out] : 0.0f;
        finite = finite && std::isfinite(out[k]);
      }
    }
    return finite;
  }

  const float* column(int64_t c) const { return values_.data() + c * rows_; }
  int64_t rows() const { return rows_; }
  // Room for one column in double.
  std::vector<double>& mixed() { return mixed_; }

 private:
  int64_t rows_;
  std::vector<float> values_;
  std::vector<double> mixed_;
};

void pack_float32_panel(const PanelColumns& w, int64_t in_features, uint8_t* panel) {
  for (int64_t k = 0; k < in_features; ++k) {
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      std::memcpy(panel + (k * kPanelColumns + c) * 4, w.column(c) + k, 4);
    }
  }
}

void pack_bfloat16_panel(const PanelColumns& w, int64_t in_features, uint8_t* panel) {
  for (int64_t k = 0; k < in_features; ++k) {
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      const uint16_t value = to_bfloat16(w.column(c)[k]);
      std::memcpy(panel + (k * kPanelColumns + c) * 2, &value, 2);
    }
  }
}

// How many rows from `first` on are mixed, see packing.h.
int64_t mixed_rows(int64_t first, int64_t rows) { return std::min(kMixedRows, rows - first); }

// Multiplies rows that are mixed together by a factor and H. In double, so that nothing overflows.
void mix_rows(double* rows, int64_t count, double factor) {
  for (int64_t step = kMixedStep; step < count; step *= 2) {
    for (int64_t i = 0; i < count; ++i) {
      if ((i & step) != 0) continue;
      const double low = rows[i], high = rows[i + step];
      rows[i] = low + high;
      rows[i + step] = low - high;
    }
  }
  for (int64_t i = 0; i < count; ++i) rows[i] *= factor;
}

void pack_int8_panel(PanelColumns& w, uint8_t* panel) {
  std::vector<double>& mixed = w.mixed();
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    std::copy_n(w.column(c), w.rows(), mixed.begin());
    for (int64_t k = 0; k < w.rows(); k += kMixedRows) {
      mix_rows(mixed.data() + k, mixed_rows(k, w.rows()), 0.5);
    }
    double largest = 0;
    for (const double value : mixed) largest = std::max(largest, std::abs(value));
    // The scale of a column of subnormals is not rounded to zero, which would lose the column.
    constexpr float kLeast = std::numeric_limits<float>::denorm_min();
    const float scale = largest > 0 ? std::max(static_cast<float>(largest / 127.0), kLeast) : 0.0f;
    std::memcpy(panel + c * 4, &scale, 4);
    uint8_t* values = panel + kColumnScalesBytes + c * 4;
    for (int64_t k = 0; k < w.rows(); ++k) {
      const double steps =
          scale > 0 ? std::nearbyint(mixed[static_cast<size_t>(k)] / static_cast<double>(scale)) : 0.0;
      values[k / 4 * 64 + k % 4] =
          static_cast<uint8_t>(128 + static_cast<int>(std::clamp(steps, -127.0, 127.0)));
    }
  }
}

// Rounds the groups of a column, first to last.
class Int4Column {
 public:
  // `targets` [rows] is scratch memory.
  Int4Column(const float* column, int64_t rows, const float* feedback, double* targets)
      : column_(column),
        rows_(rows),
        feedback_(feedback),
        targets_(targets),
        scale_(int4_column_scale(column, rows)) {
    if (feedback_ != nullptr) std::copy_n(column, rows, targets);
  }

  float scale() const { return scale_; }

  Int4Group group(int64_t first) {
    if (feedback_ == nullptr) return quantize_int4_group(column_ + first, scale_, kernels());
    constexpr double kLargest = std::numeric_limits<float>::max();
    float wanted[kInt4GroupRows];
    for (int64_t k = 0; k < kInt4GroupRows; ++k) {
      wanted[k] = static_cast<float>(std::clamp(targets_[first + k], -kLargest, kLargest));
    }
    Int4Group group = quantize_int4_group(wanted, scale_, kernels());
    for (int64_t k = 0; k < kInt4GroupRows; ++k) {
      group.values[k] = int4_value(targets_[first + k], scale_, group);
      feed_back(first + k, int4_weight(group.values[k], scale_, group));
    }
    return group;
  }

 private:
  // Takes the error of a row off the rows that follow it in its block.
  void feed_back(int64_t row, double rounded) {
    const int64_t block = row / kFeedbackRows * kFeedbackRows;
    const float* shares = feedback_ + row * kFeedbackRows - block;
    const double error = rounded - static_cast<double>(column_[row]);
    const int64_t end = std::min(block + kFeedbackRows, rows_);
    for (int64_t k = row + 1; k < end; ++k) targets_[k] -= error * static_cast<double>(shares[k]);
  }

  const float* column_;
  int64_t rows_;
  const float* feedback_;
  double* targets_;
  float scale_;
};

void pack_int4_panel(PanelColumns& w, const float* feedback, uint8_t* panel) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    Int4Column column(w.column(c), w.rows(), feedback, w.mixed().data());
    const float column_scale = column.scale();
    std::memcpy(panel + c * 4, &column_scale, 4);
    uint8_t* out = panel + kColumnScalesBytes;
    for (int64_t k = 0; k < w.rows(); k += kBlockRows, out += kInt4BlockBytes) {
      const Int4Group low = column.group(k);
      const Int4Group high = column.group(k + kInt4GroupRows);
      out[c] = low.scale;
      out[16 + c] = high.scale;
      out[32 + c] = low.zero;
      out[48 + c] = high.zero;
      for (int64_t i = 0; i < kInt4GroupRows; ++i) {
        out[64 + i / 4 * 64 + c * 4 + i % 4] = static_cast<uint8_t>(low.values[i] | high.values[i] << 4);
      }
    }
  }
}

void pack_panel(WeightFormat format, PanelColumns& w, int64_t in_features, const float* feedback,
                uint8_t* panel) {
  switch (format) {
    case WeightFormat::kFloat32:
      return pack_float32_panel(w, in_features, panel);
    case WeightFormat::kBFloat16:
      return pack_bfloat16_panel(w, in_features, panel);
    case WeightFormat::kInt8:
      return pack_int8_panel(w, panel);
    case WeightFormat::kInt4:
      return pack_int4_panel(w, feedback, panel);
  }
}

void unpack_int8_column(const uint8_t* panel, int64_t in_features, int64_t c, float* out) {
  float column_scale = 0;
  std::memcpy(&column_scale, panel + c * 4, 4);
  const double scale = column_scale;
  for (int64_t first = 0; first < in_features; first += kMixedRows) {
    const uint8_t* values = panel + kColumnScalesBytes + first * kPanelColumns + c * 4;
    const int64_t mixed = mixed_rows(first, block_count(in_features) * kBlockRows);
    double rows[kMixedRows];
    for (int64_t k = 0; k < mixed; ++k) {
      const int steps = values[k / 4 * 64 + k % 4] - 128;
      rows[k] = scale * steps;
    }
    mix_rows(rows, mixed, 2.0 * static_cast<double>(kMixedStep) / static_cast<double>(mixed));
    const int64_t count = std::min(mixed, in_features - first);
    for (int64_t k = 0; k < count; ++k) out[first + k] = static_cast<float>(rows[k]);
  }
}

void unpack_int4_column(const uint8_t* panel, int64_t in_features, int64_t c, float* out) {
  float column_scale = 0;
  std::memcpy(&column_scale, panel + c * 4, 4);
  for (int64_t k = 0; k < in_features; ++k) {
    const uint8_t* block = panel + kColumnScalesBytes + k / kBlockRows * kInt4BlockBytes;
    const int64_t half = k % kBlockRows / kInt4GroupRows;
    const int64_t i = k % kInt4GroupRows;
    const int value = block[64 + i / 4 * 64 + c * 4 + i % 4] >> (4 * half) & 15;
    const float scale = int4_minifloat(block[16 * half + c]);
    const float zero = static_cast<float>(block[32 + 16 * half + c]) / 16.0f;
    out[k] = column_scale * scale * (static_cast<float>(value) - zero);
  }
}

}  // namespace

size_t packed_panel_bytes(WeightFormat format, int64_t in_features) {
  check_size("in_features", in_features);
  const int64_t blocks = block_count(in_features);
  switch (format) {
    case WeightFormat::kFloat32:
      return static_cast<size_t>(in_features * kPanelColumns * 4);
    case WeightFormat::kBFloat16:
      return static_cast<size_t>(round_up(in_features * kPanelColumns * 2, 64));
    case WeightFormat::kInt8:
      return static_cast<size_t>(kColumnScalesBytes + blocks * kInt8BlockBytes);
    case WeightFormat::kInt4:
      return static_cast<size_t>(kColumnScalesBytes + blocks * kInt4BlockBytes);
  }
  throw std::invalid_argument("format must be 0 (fp32), 1 (bf16), 2 (int8) or 3 (int4), got " +
                              std::to_string(static_cast<int32_t>(format)));
}

size_t packed_weight_bytes(WeightFormat format, int64_t in_features, int64_t out_features) {
  check_size("out_features", out_features);
  return packed_panel_bytes(format, in_features) *
         static_cast<size_t>(round_up(out_features, kPanelColumns) / kPanelColumns);
}

void pack_columns(WeightFormat format, const float* w, int64_t stride_in, int64_t stride_out,
                  int64_t in_features, int64_t columns, uint8_t* packed, const Parallel& parallel,
                  const float* feedback) {
  const size_t panel_bytes = packed_panel_bytes(format, in_features);
  const int64_t panels = round_up(columns, kPanelColumns) / kPanelColumns;
  const int64_t tasks = std::min<int64_t>(panels, parallel.threads() * int64_t{4});
  std::memset(packed, 0, packed_weight_bytes(format, in_features, columns));
  std::vector<PanelColumns> scratch(static_cast<size_t>(tasks), PanelColumns(in_features));
  std::atomic<bool> finite{true};
  parallel.run(tasks, [&](int64_t task) noexcept {
    PanelColumns& panel_columns = scratch[static_cast<size_t>(task)];
    const Range own = part(panels, task, tasks);
    for (int64_t panel = own.begin; panel < own.end; ++panel) {
      const int64_t first = panel * kPanelColumns;
      const int64_t count = std::min(kPanelColumns, columns - first);
      if (!panel_columns.gather(w + first * stride_out, stride_in, stride_out, in_features, count))
        finite = false;
      if (finite)
        pack_panel(format, panel_columns, in_features, feedback,
                   packed + static_cast<size_t>(panel) * panel_bytes);
    }
  });
  if (!finite) throw std::invalid_argument("weights must be finite, got a NaN or an infinity");
}

void unpack_column(WeightFormat format, const uint8_t* packed, int64_t in_features, int64_t column,
                   float* out) {
  const uint8_t* panel =
      packed + packed_panel_bytes(format, in_features) * static_cast<size_t>(column / kPanelColumns);
  const int64_t c = column % kPanelColumns;
  switch (format) {
    case WeightFormat::kFloat32:
      for (int64_t k = 0; k < in_features; ++k) std::memcpy(out + k, panel + (k * kPanelColumns + c) * 4, 4);
      return;
    case WeightFormat::kBFloat16:
      for (int64_t k = 0; k < in_features; ++k) {
        uint16_t value = 0;
        std::memcpy(&value, panel + (k * kPanelColumns + c) * 2, 2);
        out[k] = from_bfloat16(value);
      }
      return;
    case WeightFormat::kInt8:
      return unpack_int8_column(panel, in_features, c, out);
    case WeightFormat::kInt4:
      return unpack_int4_column(panel, in_features, c, out);
  }
}

}  // namespace gpt2fast
