// boundary_map on a CPU; the work is done in boundary_map_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>

#include "common/dense.h"

#define SIMD_SOURCE "boundary_map_rows_cpu.h"
#include "common/simd.h"

namespace boundary_map {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor boundary_map(const Tensor& labels, int64_t radius, int64_t ignore_index) {
  STD_TORCH_CHECK(labels.dim() == 3, "labels must be (N, H, W)");
  const Tensor ids = dense(labels, ScalarType::Long);
  const Tensor boundary = torch::stable::new_empty(ids, ids.sizes(), ScalarType::Byte);
  Arguments args = {numbers<int64_t>(ids), results<uint8_t>(boundary), ids.size(1), ids.size(2), ignore_index, {}};
  const int64_t reach_y = std::min(radius, args.height - 1), reach_x = std::min(radius, args.width - 1);
  for (int64_t dy = -reach_y; dy <= reach_y; ++dy)
    for (int64_t dx = -reach_x; dx <= reach_x; ++dx)
      if ((dy || dx) && dy * dy + dx * dx <= radius * radius) args.disk.emplace_back(dy, dx);
  constexpr int64_t GRAIN = 16;  // rows that are worth a thread
  torch::stable::parallel_for(0, ids.size(0) * args.height, GRAIN,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(make_rows)(args, begin, end); });
  return boundary;
}

}  // namespace boundary_map

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def("boundary_map_cpu(Tensor labels, int radius, int ignore_index) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("boundary_map_cpu", TORCH_BOX(&boundary_map::boundary_map));
}
