// move_labels on a CPU; the work is done in move_labels_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "common/dense.h"

#define SIMD_SOURCE "move_labels_rows_cpu.h"
#include "common/simd.h"

namespace move_labels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns the labels [N, H, W] as int64, and where they were read, [N, 2, H, W].
std::tuple<Tensor, Tensor> move_labels(const Tensor& motion, const Tensor& labels, int64_t ignore_index) {
  STD_TORCH_CHECK(motion.dim() == 4 && motion.size(3) == SIZE && labels.dim() == 3 && motion.size(0) == labels.size(0),
                  "motion must be (N, rows, columns, 8), labels (N, H, W)");
  constexpr int64_t POINTS = 7, GRAIN = 4;  // points along half a tile; rows that are worth a thread
  const Tensor field = dense(motion, ScalarType::Float), ids = dense(labels, ScalarType::Long);
  const int64_t n = ids.size(0), height = ids.size(1), width = ids.size(2);
  const int64_t rows = (field.size(1) + 1) * POINTS, columns = (field.size(2) + 1) * POINTS;
  const Tensor points = torch::stable::new_empty(field, {n, 2, rows, columns});
  const Tensor moved = torch::stable::new_empty(ids, {n, height, width});
  const Tensor displacement = torch::stable::new_empty(field, {n, 2, height, width});
  const Arguments args = {numbers<float>(field),
                          results<float>(points),
                          numbers<int64_t>(ids),
                          results<int64_t>(moved),
                          results<float>(displacement),
                          field.size(1),
                          field.size(2),
                          rows,
                          columns,
                          height,
                          width,
                          ignore_index};
  torch::stable::parallel_for(0, n * rows, GRAIN,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(flow_rows)(args, begin, end); });
  torch::stable::parallel_for(0, n * height, GRAIN,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(read_rows)(args, begin, end); });
  return {moved, displacement};
}

}  // namespace move_labels

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def("move_labels_cpu(Tensor motion, Tensor labels, int ignore_index) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) { m.impl("move_labels_cpu", TORCH_BOX(&move_labels::move_labels)); }
