// segmentation_loss on a CPU; the work is done in segmentation_loss_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/dense.h"
#include "common/for_cells.h"

#define SIMD_SOURCE "segmentation_loss_rows_cpu.h"
#include "common/simd.h"

namespace segmentation_loss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns the loss, the sum of the pixels' weights, and the gradient of their product.
std::tuple<Tensor, Tensor, Tensor> segmentation_loss(const Tensor& logits, const Tensor& labels,
                                                     const std::optional<Tensor>& class_weights, int64_t ignore_index,
                                                     bool wants_grad) {
  const Tensor dense_logits = dense(logits, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  const Tensor weights = class_weights ? dense(*class_weights, ScalarType::Float) : dense_logits;
  softmax::Maps maps = softmax::maps(dense_logits, ids, ignore_index);
  const int64_t n = logits.size(0), classes = maps.classes, height = maps.rows.size, width = maps.columns.size;
  STD_TORCH_CHECK(!class_weights || class_weights->numel() == classes, "class_weights must be one per class");
  const Tensor grad_logits = torch::stable::new_zeros(dense_logits, {wants_grad ? n : 0, classes, height, width});
  maps.grad_logits = results<float>(grad_logits);
  std::vector<double> sums(2 * n * height);
  const Arguments args = {maps, class_weights ? numbers<float>(weights) : nullptr, sums.data()};
  for_cells(n, height,
            [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(add_cells)(args, begin, end, parity); });
  double loss = 0, weight = 0;
  for (int64_t i = 0; i < n * height; ++i) loss += sums[2 * i], weight += sums[2 * i + 1];
  if (weight == 0) weight = 1;  // without a valid pixel the loss is 0
  const Tensor outputs[] = {torch::stable::new_empty(dense_logits, {}), torch::stable::new_empty(dense_logits, {})};
  torch::stable::fill_(outputs[0], loss / weight);
  torch::stable::fill_(outputs[1], weight);
  return {outputs[0], outputs[1], grad_logits};
}

}  // namespace segmentation_loss

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def(
      "segmentation_loss_cpu(Tensor logits, Tensor labels, Tensor? class_weights, int ignore_index, bool "
      "wants_grad) -> (Tensor loss, Tensor weight, Tensor grad_logits)");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("segmentation_loss_cpu", TORCH_BOX(&segmentation_loss::segmentation_loss));
}
