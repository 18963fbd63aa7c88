// segmentation_loss on a CPU; the work is done in segmentation_loss_rows_cpu.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "dense.h"
#include "resize.h"

namespace segmentation_loss {

struct Arguments {
  const float* logits;         // (N, C, h, w)
  const int64_t* labels;       // (N, H, W)
  const float* class_weights;  // (C), or null
  float* gradient;             // like logits, zero; or null: not asked for
  double* sums;                // of the loss and of the weights, for each row of logits
  int64_t classes, ignore_index;
  Axis rows, columns;
};

}  // namespace segmentation_loss

#define SIMD_SOURCE "segmentation_loss_rows_cpu.h"
#include "simd.h"

namespace segmentation_loss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The loss, the sum of the pixels' weights, and the gradient of their product.
std::tuple<Tensor, Tensor, Tensor> segmentation_loss(const Tensor& logits, const Tensor& labels,
                                                     const std::optional<Tensor>& class_weights, int64_t ignore_index,
                                                     bool with_gradient) {
  STD_TORCH_CHECK(logits.dim() == 4 && labels.dim() == 3 && labels.size(0) == logits.size(0),
                  "logits must be (N, C, h, w) and labels (N, H, W)");
  const int64_t n = logits.size(0), classes = logits.size(1), height = logits.size(2), width = logits.size(3);
  STD_TORCH_CHECK(classes > 0 && height > 0 && width > 0, "logits must have classes, height and width");
  STD_TORCH_CHECK(!class_weights || class_weights->numel() == classes, "class_weights must be one per class");
  const Tensor maps = dense(logits, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  const Tensor weights = class_weights ? dense(*class_weights, ScalarType::Float) : maps;
  const Tensor gradient = torch::stable::new_zeros(maps, {with_gradient ? n : 0, classes, height, width});
  std::vector<double> sums(2 * n * height);
  const Arguments of = {static_cast<const float*>(maps.const_data_ptr()),
                        static_cast<const int64_t*>(ids.const_data_ptr()),
                        class_weights ? static_cast<const float*>(weights.const_data_ptr()) : nullptr,
                        with_gradient && n ? static_cast<float*>(gradient.mutable_data_ptr()) : nullptr,
                        sums.data(),
                        classes,
                        ignore_index,
                        Axis(height, labels.size(1)),
                        Axis(width, labels.size(2))};
  for_cells(n, height, [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(rows)(of, begin, end, parity); });
  double loss = 0, weight = 0;
  for (int64_t i = 0; i < n * height; ++i) loss += sums[2 * i], weight += sums[2 * i + 1];
  if (weight == 0) weight = 1;  // no valid pixel: the loss is 0
  const Tensor results[] = {torch::stable::new_empty(maps, {}), torch::stable::new_empty(maps, {})};
  torch::stable::fill_(results[0], loss / weight);
  torch::stable::fill_(results[1], weight);
  return {results[0], results[1], gradient};
}

}  // namespace segmentation_loss

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def(
      "segmentation_loss_cpu(Tensor logits, Tensor labels, Tensor? class_weights, int ignore_index, bool "
      "with_gradient) "
      "-> (Tensor loss, Tensor weight, Tensor gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("segmentation_loss_cpu", TORCH_BOX(&segmentation_loss::segmentation_loss));
}
