// boundary_f1_loss on a CPU; the work is done in boundary_f1_loss_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/dense.h"

#define SIMD_SOURCE "boundary_f1_loss_rows_cpu.h"
#include "common/simd.h"

namespace boundary_f1_loss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t GRAIN = 16;  // a thread computes some rows of its neighbours again, so it must have enough of its own

struct Truth {
  Tensor edges, near;  // [N, H, W] and [N, H, words, W], as in Arguments
};

Truth find_truth(const softmax::Maps& maps, const Tensor& labels, int64_t radius, int64_t tolerance) {
  STD_TORCH_CHECK(radius > 0, "radius must be positive");
  STD_TORCH_CHECK(tolerance >= 0, "tolerance must not be negative");
  const int64_t n = labels.size(0), height = labels.size(1), width = labels.size(2);
  const Tensor edges = torch::stable::new_empty(labels, {n, height, width}, ScalarType::Int);
  const Tensor near = torch::stable::new_empty(labels, {n, height, words_of(maps.classes), width}, ScalarType::Int);
  int32_t* edge = results<int32_t>(edges);
  uint32_t* bits = results<uint32_t>(near);
  torch::stable::parallel_for(
      0, n * height, GRAIN, [&](int64_t begin, int64_t end) { SIMD_BEST(mark_rows)(maps, radius, edge, begin, end); });
  torch::stable::parallel_for(0, n * height, GRAIN, [&](int64_t begin, int64_t end) {
    SIMD_BEST(spread_rows)(maps, tolerance, edge, bits, begin, end);
  });
  return {edges, near};
}

// Returns each class's sums over the pixels, [4, C]: of b, b near, b t and t.
Tensor sum_classes(const Tensor& logits, const Tensor& labels, int64_t radius, int64_t ignore_index,
                   int64_t tolerance) {
  const Tensor dense_logits = dense(logits, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  const softmax::Maps maps = softmax::maps(dense_logits, ids, ignore_index);
  const auto [edges, near] = find_truth(maps, ids, radius, tolerance);
  const int64_t rows = ids.size(0) * ids.size(1), classes = maps.classes;
  std::vector<double> parts(rows * classes * 4);
  const Arguments args = {maps, numbers<int32_t>(edges), numbers<uint32_t>(near), radius, parts.data(), nullptr};
  torch::stable::parallel_for(0, rows, GRAIN,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(forward_rows)(args, begin, end); });
  const Tensor sums = torch::stable::new_zeros(dense_logits, {4, classes}, ScalarType::Double);
  double* sum = results<double>(sums);
  for (size_t i = 0; i < parts.size(); ++i) sum[i % 4 * classes + i / 4 % classes] += parts[i];
  return sums;
}

// Returns the loss, and its derivatives by the first three sums, [3, C]. The sums are the batch's own by default.
std::tuple<Tensor, Tensor> forward(const Tensor& logits, const Tensor& labels, int64_t radius, int64_t ignore_index,
                                   int64_t tolerance, const std::optional<Tensor>& given) {
  const int64_t classes = logits.size(1);
  STD_TORCH_CHECK(!given || given->numel() == 4 * classes, "sums must be (4, C)");
  const Tensor all =
      given ? dense(*given, ScalarType::Double) : sum_classes(logits, labels, radius, ignore_index, tolerance);
  const double* sum = numbers<double>(all);
  // A class without a true boundary is left out, unless its sum is NaN, which must not pass in silence.
  const auto counts = [&](int64_t c) { return !(sum[3 * classes + c] == 0 && sum[c] >= 0); };
  int64_t count = 0;
  for (int64_t c = 0; c < classes; ++c) count += counts(c);
  const Tensor loss = torch::stable::new_empty(logits, {}, ScalarType::Float);
  const Tensor slopes = torch::stable::new_zeros(logits, {3, classes}, ScalarType::Float);
  float* slope = results<float>(slopes);
  double total = 0;
  for (int64_t c = 0; c < classes; ++c) {
    if (!counts(c)) continue;
    const double predicted = sum[c], precise = sum[classes + c], recalled = sum[2 * classes + c],
                 truth = sum[3 * classes + c];
    // Where it is 0, so are precise and recalled.
    const double both = precise * truth + recalled * predicted, divisor = both == 0 ? 1 : both;
    const double precise_part = precise / divisor, recalled_part = recalled / divisor;
    total += (1 - 2 * precise_part * recalled) / count;
    slope[c] = static_cast<float>(2 * precise_part * recalled_part * recalled / count);
    slope[classes + c] = static_cast<float>(-2 * recalled_part * recalled_part * predicted / count);
    slope[2 * classes + c] = static_cast<float>(-2 * precise_part * precise_part * truth / count);
  }
  torch::stable::fill_(loss, total);
  return {loss, slopes};
}

// Returns the gradient of the logits, given the slopes times the gradient of the loss.
Tensor backward(const Tensor& logits, const Tensor& labels, const Tensor& slopes, int64_t radius, int64_t ignore_index,
                int64_t tolerance) {
  const Tensor dense_logits = dense(logits, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  softmax::Maps maps = softmax::maps(dense_logits, ids, ignore_index);
  const int64_t n = logits.size(0), classes = maps.classes, height = maps.rows.size;
  STD_TORCH_CHECK(slopes.numel() == 3 * classes, "slopes must be (3, C)");
  const Tensor dense_slopes = dense(slopes, ScalarType::Float);
  const auto [edges, near] = find_truth(maps, ids, radius, tolerance);
  const Tensor grad_logits = torch::stable::new_zeros(dense_logits, {n, classes, height, maps.columns.size});
  maps.grad_logits = results<float>(grad_logits);
  const Arguments args = {maps,    numbers<int32_t>(edges),     numbers<uint32_t>(near), radius,
                          nullptr, numbers<float>(dense_slopes)};
  const int64_t grain = 1 + GRAIN * height / maps.rows.full;
  torch::stable::parallel_for(0, n * height, grain,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(backward_rows)(args, begin, end); });
  return grad_logits;
}

}  // namespace boundary_f1_loss

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def(
      "boundary_f1_loss_backward_cpu(Tensor logits, Tensor labels, Tensor slopes, int radius, int ignore_index, "
      "int tolerance) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("boundary_f1_loss", TORCH_BOX(&boundary_f1_loss::forward));
  m.impl("boundary_f1_sums", TORCH_BOX(&boundary_f1_loss::sum_classes));
  m.impl("boundary_f1_loss_backward_cpu", TORCH_BOX(&boundary_f1_loss::backward));
}
