// The maps of which softmax_rows_cpu.h makes softmaxes.
#pragma once

#include <cstdint>

#include "common/dense.h"
#include "common/resize.h"

namespace softmax {

struct Maps {
  const float* logits;    // [N, C, h, w]
  const int64_t* labels;  // [N, H, W]
  float* grad_logits;     // [N, C, h, w], zero; or null: not asked for
  int64_t classes, ignore_index;
  Axis rows, columns;
};

// The tensors must be dense and outlive the result.
inline Maps maps(const torch::stable::Tensor& logits, const torch::stable::Tensor& labels, int64_t ignore_index) {
  STD_TORCH_CHECK(logits.dim() == 4 && labels.dim() == 3 && labels.size(0) == logits.size(0),
                  "logits must be (N, C, h, w) and labels (N, H, W)");
  const int64_t classes = logits.size(1), height = logits.size(2), width = logits.size(3);
  STD_TORCH_CHECK(classes > 0 && height > 0 && width > 0, "logits must have classes, height and width");
  return {numbers<float>(logits),       numbers<int64_t>(labels),   nullptr, classes, ignore_index,
          Axis(height, labels.size(1)), Axis(width, labels.size(2))};
}

}  // namespace softmax
