// dice_loss on a CPU; the work is done in dice_loss_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/dense.h"
#include "common/for_cells.h"

#define SIMD_SOURCE "dice_loss_rows_cpu.h"
#include "common/simd.h"

namespace dice_loss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Sums {
  double both = 0, predicted = 0, truth = 0;

  // A class that no pixel has is left out, unless its sum is NaN, which must not pass in silence.
  bool counts() const { return !(truth == 0 && predicted >= 0); }
};

// Returns each class's sums over the pixels, [3, C]: both, predicted and truth.
Tensor sum_classes(const Tensor& logits, const Tensor& labels, int64_t ignore_index) {
  const Tensor dense_logits = dense(logits, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  const softmax::Maps maps = softmax::maps(dense_logits, ids, ignore_index);
  const int64_t n = logits.size(0), height = maps.rows.size, classes = maps.classes;
  std::vector<double> rows(3 * classes * n * height);
  const Arguments args = {maps, rows.data(), nullptr};
  for_cells(n, height,
            [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(forward_cells)(args, begin, end, parity); });
  const Tensor sums = torch::stable::new_zeros(dense_logits, {3, classes}, ScalarType::Double);
  double* sum = results<double>(sums);
  for (size_t i = 0; i < rows.size(); ++i) sum[i % 3 * classes + i / 3 % classes] += rows[i];
  return sums;
}

// Returns the loss, and the slopes [2, C] that dice_loss_rows_cpu.h explains. The sums are the batch's own by default.
std::tuple<Tensor, Tensor> forward(const Tensor& logits, const Tensor& labels, int64_t ignore_index,
                                   const std::optional<Tensor>& given) {
  const int64_t classes = logits.size(1);
  STD_TORCH_CHECK(!given || given->numel() == 3 * classes, "sums must be (3, C)");
  const Tensor all = given ? dense(*given, ScalarType::Double) : sum_classes(logits, labels, ignore_index);
  const double* sum = numbers<double>(all);
  std::vector<Sums> sums(classes);
  for (int64_t c = 0; c < classes; ++c) sums[c] = {sum[c], sum[classes + c], sum[2 * classes + c]};
  const auto count = std::count_if(sums.begin(), sums.end(), [](const Sums& sum) { return sum.counts(); });
  const Tensor loss = torch::stable::new_empty(logits, {}, ScalarType::Float);
  const Tensor slopes = torch::stable::new_zeros(logits, {2, classes}, ScalarType::Float);
  float* slope = results<float>(slopes);
  double total = 0;
  for (int64_t c = 0; c < classes; ++c) {
    if (!sums[c].counts()) continue;
    const double both = sums[c].both, size = sums[c].predicted + sums[c].truth;
    total += (size - 2 * both) / size / count;
    slope[c] = static_cast<float>(2 * (both / size) / size / count);
    slope[classes + c] = static_cast<float>(2 * (both / size - 1) / size / count);
  }
  torch::stable::fill_(loss, total);
  return {loss, slopes};
}

// Returns the gradient of the logits, given the slopes times the gradient of the loss.
Tensor backward(const Tensor& logits, const Tensor& labels, const Tensor& slopes, int64_t ignore_index) {
  const Tensor dense_logits = dense(logits, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  softmax::Maps maps = softmax::maps(dense_logits, ids, ignore_index);
  const int64_t n = logits.size(0), height = maps.rows.size;
  STD_TORCH_CHECK(slopes.numel() == 2 * maps.classes, "slopes must be (2, C)");
  const Tensor dense_slopes = dense(slopes, ScalarType::Float);
  const Tensor grad_logits = torch::stable::new_zeros(dense_logits, {n, maps.classes, height, maps.columns.size});
  maps.grad_logits = results<float>(grad_logits);
  const Arguments args = {maps, nullptr, numbers<float>(dense_slopes)};
  for_cells(n, height,
            [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(backward_cells)(args, begin, end, parity); });
  return grad_logits;
}

}  // namespace dice_loss

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def("dice_loss_backward_cpu(Tensor logits, Tensor labels, Tensor slopes, int ignore_index) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("dice_loss", TORCH_BOX(&dice_loss::forward));
  m.impl("dice_sums", TORCH_BOX(&dice_loss::sum_classes));
  m.impl("dice_loss_backward_cpu", TORCH_BOX(&dice_loss::backward));
}
