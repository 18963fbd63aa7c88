// boundary_loss on a CPU; the work is done in boundary_loss_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "dense.h"
#include "resize.h"

namespace boundary_loss {

struct Arguments {
  const float* logits;    // (N, h, w)
  const uint8_t* target;  // (N, H, W)
  float* gradient[2];     // like logits, zero, of the losses of positives and of negatives; or null: not asked for
  double* sums;           // of either's losses, then of their pixels, for each row of logits
  Axis rows, columns;
};

}  // namespace boundary_loss

#define SIMD_SOURCE "boundary_loss_rows_cpu.h"
#include "simd.h"

namespace boundary_loss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The loss, the weights (2) of positive and negative pixels, and the gradients of their summed losses.
std::tuple<Tensor, Tensor, Tensor> boundary_loss(const Tensor& logits, const Tensor& target, bool with_gradient) {
  STD_TORCH_CHECK(logits.dim() == 4 && target.dim() == 3 && target.size(0) == logits.size(0) && logits.size(1) == 1,
                  "logits must be (N, 1, h, w) and the target (N, H, W)");
  const int64_t n = logits.size(0), height = logits.size(2), width = logits.size(3);
  const Tensor maps = dense(logits, ScalarType::Float), kinds = dense(target, ScalarType::Byte);
  const std::vector<int64_t> shape = {2, n, 1, height, width}, none = {0};
  const Tensor gradient = torch::stable::new_zeros(maps, with_gradient ? shape : none);
  float* gradients = results<float>(gradient);
  std::vector<double> sums(4 * n * height);
  const Arguments of = {numbers<float>(maps),
                        numbers<uint8_t>(kinds),
                        {gradients, gradients ? gradients + n * height * width : nullptr},
                        sums.data(),
                        Axis(height, target.size(1)),
                        Axis(width, target.size(2))};
  for_cells(n, height, [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(rows)(of, begin, end, parity); });
  double total[4] = {};
  for (int64_t i = 0; i < 4 * n * height; ++i) total[i % 4] += sums[i];
  const double valid = std::max(total[2] + total[3], 1.0);
  const double of_positive = total[3] / (valid * valid), of_negative = total[2] / (valid * valid);
  const Tensor loss = torch::stable::new_empty(maps, {}), weights = torch::stable::new_empty(maps, {2});
  torch::stable::fill_(loss, of_positive * total[0] + of_negative * total[1]);
  results<float>(weights)[0] = static_cast<float>(of_positive);
  results<float>(weights)[1] = static_cast<float>(of_negative);
  return {loss, weights, gradient};
}

}  // namespace boundary_loss

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def(
      "boundary_loss_cpu(Tensor logits, Tensor target, bool with_gradient) -> (Tensor loss, Tensor weights, Tensor "
      "gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("boundary_loss_cpu", TORCH_BOX(&boundary_loss::boundary_loss));
}
