// boundary_loss on a CPU; the work is done in boundary_loss_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/dense.h"
#include "common/for_cells.h"

#define SIMD_SOURCE "boundary_loss_rows_cpu.h"
#include "common/simd.h"

namespace boundary_loss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns the loss, the weights [2] of positive and negative pixels, and the gradients [2, N, 1, h, w] of their summed
// losses. The weights follow from the counts [2] of positive and negative pixels, which are the target's own by
// default.
std::tuple<Tensor, Tensor, Tensor> boundary_loss(const Tensor& logits, const Tensor& target,
                                                 const std::optional<Tensor>& counts, bool wants_grad) {
  STD_TORCH_CHECK(logits.dim() == 4 && target.dim() == 3 && target.size(0) == logits.size(0) && logits.size(1) == 1,
                  "logits must be (N, 1, h, w) and the target (N, H, W)");
  STD_TORCH_CHECK(!counts || counts->numel() == 2, "counts must be (2)");
  const int64_t n = logits.size(0), height = logits.size(2), width = logits.size(3);
  const Tensor maps = dense(logits, ScalarType::Float), kinds = dense(target, ScalarType::Byte);
  const std::vector<int64_t> shape = {2, n, 1, height, width}, none = {0};
  const Tensor grad_logits = torch::stable::new_zeros(maps, wants_grad ? shape : none);
  float* grads = results<float>(grad_logits);
  std::vector<double> sums(4 * n * height);
  const Arguments args = {
      numbers<float>(maps), numbers<uint8_t>(kinds),      {grads, grads ? grads + n * height * width : nullptr},
      sums.data(),          Axis(height, target.size(1)), Axis(width, target.size(2))};
  for_cells(n, height,
            [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(add_cells)(args, begin, end, parity); });
  double total[4] = {};
  for (int64_t i = 0; i < 4 * n * height; ++i) total[i % 4] += sums[i];
  if (counts) {
    const Tensor given = dense(*counts, ScalarType::Double);
    std::copy_n(numbers<double>(given), 2, total + 2);
  }
  const double valid = std::max(total[2] + total[3], 1.0);
  const double positive_weight = total[3] / (valid * valid), negative_weight = total[2] / (valid * valid);
  const Tensor loss = torch::stable::new_empty(maps, {}), weights = torch::stable::new_empty(maps, {2});
  const double positive_loss = positive_weight == 0 ? 0 : positive_weight * total[0];  // the total may be infinite
  const double negative_loss = negative_weight == 0 ? 0 : negative_weight * total[1];
  torch::stable::fill_(loss, positive_loss + negative_loss);
  results<float>(weights)[0] = static_cast<float>(positive_weight);
  results<float>(weights)[1] = static_cast<float>(negative_weight);
  return {loss, weights, grad_logits};
}

}  // namespace boundary_loss

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def(
      "boundary_loss_cpu(Tensor logits, Tensor target, Tensor? counts, bool wants_grad) -> (Tensor loss, Tensor "
      "weights, Tensor grad_logits)");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("boundary_loss_cpu", TORCH_BOX(&boundary_loss::boundary_loss));
}
