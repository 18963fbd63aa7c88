// register_labels on a CPU; the work is done in register_labels_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/dense.h"

#define SIMD_SOURCE "register_labels_rows_cpu.h"
#include "common/simd.h"

namespace register_labels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns the coefficients of the tiles, [N, rows, columns, 8].
Tensor register_labels(const Tensor& probabilities, const Tensor& labels, int64_t ignore_index, int64_t rows,
                       int64_t columns) {
  STD_TORCH_CHECK(probabilities.dim() == 4 && labels.dim() == 3, "probabilities and labels must be maps");
  const Tensor maps = dense(probabilities, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  const int64_t n = maps.size(0), channels = maps.size(1), height = maps.size(2), width = maps.size(3);
  const Tensor a = torch::stable::new_zeros(maps, {n, rows, columns, SIZE});
  const Tensor roots = torch::stable::new_empty(maps, {n, channels, height, width});
  const Tensor logs = torch::stable::new_empty(maps, {n, channels, height, width});
  const Tensor information = torch::stable::new_empty(maps, {n, 3, height, width});
  Arguments args = {numbers<float>(maps),
                    results<float>(roots),
                    results<float>(logs),
                    results<float>(information),
                    numbers<int64_t>(ids),
                    results<float>(a),
                    channels,
                    height,
                    width,
                    1,
                    height,
                    width,
                    ids.size(1),
                    ids.size(2),
                    rows,
                    columns,
                    ignore_index,
                    0,
                    false};
  constexpr int64_t LEVELS[][2] = {{2, 4}, {1, 6}}, GRAIN = 16;  // rows that are worth a thread
  for (const auto& [pooled, steps] : LEVELS) {
    args.pooled = pooled, args.steps = steps, args.last = pooled == 1;
    args.height = height / pooled, args.width = width / pooled;
    torch::stable::parallel_for(0, n * channels * args.height, GRAIN,
                                [&](int64_t begin, int64_t end) { SIMD_BEST(smooth_rows)(args, begin, end); });
    torch::stable::parallel_for(0, n * args.height, GRAIN,
                                [&](int64_t begin, int64_t end) { SIMD_BEST(information_rows)(args, begin, end); });
    torch::stable::parallel_for(0, n * rows * columns, 1,
                                [&](int64_t begin, int64_t end) { SIMD_BEST(register_tiles)(args, begin, end); });
  }
  return a;
}

}  // namespace register_labels

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def("register_labels_cpu(Tensor probabilities, Tensor labels, int ignore_index, int rows, int columns) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("register_labels_cpu", TORCH_BOX(&register_labels::register_labels));
}
