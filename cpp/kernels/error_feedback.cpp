// The factors of second moments. In double, in a fixed order.
#include "kernels/error_feedback.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace gpt2fast {
namespace {

constexpr double kDamping = 0.01;

// The mean of the diagonal, but for rows whose input is always zero.
double mean_moment(const double* moments) {
  double sum = 0, count = 0;
  for (int64_t k = 0; k < kFeedbackRows; ++k) {
    const double moment = moments[k * kFeedbackRows + k];
    sum += moment;
    count += moment > 0 ? 1 : 0;
  }
  return count > 0 ? sum / count : 0;
}

}  // namespace

void error_feedback(const float* moments, float* feedback) {
  constexpr int64_t n = kFeedbackRows;
  std::fill_n(feedback, n * n, 0.0f);
  std::vector<double> left(moments, moments + n * n);  // what the rows that are done leave of the moments
  const double damping = kDamping * mean_moment(left.data());
  if (!(damping > 0) || !std::isfinite(damping)) return;
  for (int64_t k = 0; k < n; ++k) left[static_cast<size_t>(k * n + k)] += damping;
  std::vector<double> column(n);
  for (int64_t j = n - 1; j > 0; --j) {
    const double* last = left.data() + j * n;
    if (!(last[j] > 0)) continue;
    for (int64_t i = 0; i < j; ++i) column[static_cast<size_t>(i)] = last[i] / last[j];
    for (int64_t i = 0; i < j; ++i) {
      const double factor = column[static_cast<size_t>(i)];
      if (factor == 0) continue;  // as of all rows beyond the weight's
      feedback[i * n + j] = static_cast<float>(factor);
      double* row = left.data() + i * n;
      for (int64_t k = 0; k <= i; ++k) row[k] -= factor * last[k];
    }
  }
}

}  // namespace gpt2fast
