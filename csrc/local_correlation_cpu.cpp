// local_correlation on a CPU; the work is done in local_correlation_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "common/dense.h"

#define SIMD_SOURCE "local_correlation_rows_cpu.h"
#include "common/simd.h"

namespace local_correlation {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Arguments arguments(const Tensor& first, const Tensor& second, int64_t reach, int64_t groups) {
  STD_TORCH_CHECK(first.dim() == 4 && first.sizes().vec() == second.sizes().vec(),
                  "first and second must be (N, C, h, w)");
  STD_TORCH_CHECK(reach >= 0 && groups > 0 && first.size(1) % groups == 0,
                  "reach must be at least 0, and groups a divisor of the channels");
  return {numbers<float>(first),  numbers<float>(second), nullptr,       nullptr, nullptr, nullptr,
          first.size(1) / groups, first.size(2),          first.size(3), reach};
}

Tensor forward(const Tensor& first, const Tensor& second, int64_t reach, int64_t groups) {
  const Tensor a = dense(first, ScalarType::Float), b = dense(second, ScalarType::Float);
  Arguments args = arguments(a, b, reach, groups);
  const int64_t span = 2 * reach + 1;
  const Tensor result = torch::stable::new_empty(a, {a.size(0), groups * span * span, args.height, args.width});
  args.result = results<float>(result);
  torch::stable::parallel_for(0, a.size(0) * groups, 1,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(correlate)(args, begin, end); });
  return torch::stable::to(result, first.scalar_type());
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& first, const Tensor& second, int64_t reach,
                                    int64_t groups, bool wants_first, bool wants_second) {
  const Tensor a = dense(first, ScalarType::Float), b = dense(second, ScalarType::Float);
  const Tensor g = dense(grad, ScalarType::Float);
  Arguments args = arguments(a, b, reach, groups);
  const int64_t span = 2 * reach + 1;
  STD_TORCH_CHECK(g.numel() == a.size(0) * groups * span * span * args.height * args.width,
                  "grad must be like the correlation");
  const std::vector<int64_t> none = {0};
  const Tensor grad_first = torch::stable::new_empty(a, wants_first ? a.sizes().vec() : none);
  const Tensor grad_second = torch::stable::new_empty(b, wants_second ? b.sizes().vec() : none);
  args.grad = numbers<float>(g), args.grad_first = results<float>(grad_first),
  args.grad_second = results<float>(grad_second);
  torch::stable::parallel_for(0, a.size(0) * groups, 1,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(differentiate)(args, begin, end); });
  return {torch::stable::to(grad_first, first.scalar_type()), torch::stable::to(grad_second, second.scalar_type())};
}

}  // namespace local_correlation

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("local_correlation", TORCH_BOX(&local_correlation::forward));
  m.impl("local_correlation_backward", TORCH_BOX(&local_correlation::backward));
}
