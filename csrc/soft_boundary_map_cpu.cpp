// soft_boundary_map on a CPU; the work is done in soft_boundary_map_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "common/dense.h"

#define SIMD_SOURCE "soft_boundary_map_rows_cpu.h"
#include "common/simd.h"

namespace soft_boundary_map {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::vector<int64_t> half_disk(int64_t radius, int64_t height, int64_t width) {
  radius = std::min(radius, height + width);  // this reaches every pixel, and its square does not overflow
  std::vector<int64_t> reach;
  for (int64_t y = 0, x = radius; y <= std::min(radius, height - 1); ++y) {
    while (x * x + y * y > radius * radius) --x;
    reach.push_back(std::min(x, width - 1));
  }
  return reach;
}

Arguments arguments(const Tensor& maps, int64_t height, int64_t width, int64_t radius) {
  constexpr int64_t LARGEST = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(maps.dim() == 4 && maps.size(1) > 0, "logits must be (N, C, h, w)");
  for (int64_t edge : {maps.size(2), maps.size(3), height, width})
    STD_TORCH_CHECK(edge > 0 && edge <= LARGEST, "maps must have height and width, of 31 bits");
  STD_TORCH_CHECK(radius > 0, "radius must be positive");
  return {numbers<float>(maps), maps.size(1), Axis(maps.size(2), height), Axis(maps.size(3), width),
          half_disk(radius, height, width)};
}

// Returns the map [N, 1, H, W], and log(1 - map).
std::tuple<Tensor, Tensor> forward(const Tensor& logits, std::vector<int64_t> size, int64_t radius) {
  STD_TORCH_CHECK(size.size() == 2, "size must be (height, width)");
  const Tensor maps = dense(logits, ScalarType::Float);
  const Arguments args = arguments(maps, size[0], size[1], radius);
  const Tensor result = torch::stable::new_empty(maps, {maps.size(0), 1, size[0], size[1]});
  const Tensor logarithm = torch::stable::new_empty(maps, {maps.size(0), 1, size[0], size[1]});
  float* outputs[] = {results<float>(result), results<float>(logarithm)};
  // A thread computes some rows of its neighbours again, so it must have enough rows of its own.
  const int64_t grain = 8 * args.reach.size();
  torch::stable::parallel_for(0, maps.size(0) * size[0], grain, [&](int64_t begin, int64_t end) {
    SIMD_BEST(forward_rows)(args, outputs[0], outputs[1], begin, end);
  });
  return {result, logarithm};
}

Tensor backward(const Tensor& grad, const Tensor& logarithm, const Tensor& logits, int64_t radius) {
  STD_TORCH_CHECK(logarithm.dim() == 4 && logarithm.size(0) == logits.size(0) && logarithm.size(1) == 1,
                  "logarithm must be (N, 1, H, W)");
  for (int64_t i = 0; i < 4; ++i)
    STD_TORCH_CHECK(grad.dim() == 4 && grad.size(i) == logarithm.size(i), "grad must be like logarithm");
  const Tensor maps = dense(logits, ScalarType::Float), grads = dense(grad, ScalarType::Float),
               logarithms = dense(logarithm, ScalarType::Float);
  const Arguments args = arguments(maps, logarithm.size(2), logarithm.size(3), radius);
  const Tensor grad_logits = torch::stable::new_zeros(maps, {maps.size(0), maps.size(1), maps.size(2), maps.size(3)});
  const float* inputs[] = {numbers<float>(grads), numbers<float>(logarithms)};
  float* result = results<float>(grad_logits);
  const int64_t grain = 1 + 8 * args.reach.size() * args.rows.size / args.rows.full;
  torch::stable::parallel_for(0, maps.size(0) * args.rows.size, grain, [&](int64_t begin, int64_t end) {
    SIMD_BEST(backward_rows)(args, inputs[0], inputs[1], result, begin, end);
  });
  return grad_logits;
}

// Returns the logits of probabilities that are clamped to [eps, 1 - eps]. Each row is computed as a whole, so that the
// number of threads, by which torch's logit rounds in builds without MKL, changes no bit.
Tensor logit(const Tensor& probability, double eps) {
  const Tensor chances = dense(probability, ScalarType::Float);
  const int64_t width = chances.size(-1);
  const Tensor result = torch::stable::empty_like(chances);
  const float* from = numbers<float>(chances);
  float* to = results<float>(result);
  constexpr int64_t GRAIN = 16;  // rows that are worth a thread
  torch::stable::parallel_for(0, width ? chances.numel() / width : 0, GRAIN, [&](int64_t begin, int64_t end) {
    SIMD_BEST(logits)(from + begin * width, end - begin, width, static_cast<float>(eps), to + begin * width);
  });
  return result;
}

}  // namespace soft_boundary_map

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def("soft_boundary_map_backward_cpu(Tensor grad, Tensor logarithm, Tensor logits, int radius) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("logit", TORCH_BOX(&soft_boundary_map::logit));
  m.impl("soft_boundary_map", TORCH_BOX(&soft_boundary_map::forward));
  m.impl("soft_boundary_map_backward_cpu", TORCH_BOX(&soft_boundary_map::backward));
}
