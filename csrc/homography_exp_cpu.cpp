// homography_exp on a CPU; the work is done in homography_exp_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/dense.h"

#define SIMD_SOURCE "homography_exp_rows_cpu.h"
#include "common/simd.h"

namespace homography_exp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls f(first, count) for all rows, in whole blocks.
template <class F> void in_parallel(int64_t rows, F f) {
  constexpr int64_t GRAIN = 64;  // blocks that are worth a thread
  torch::stable::parallel_for(0, (rows + ROWS - 1) / ROWS, GRAIN, [&](int64_t begin, int64_t end) {
    f(begin * ROWS, std::min(end * ROWS, rows) - begin * ROWS);
  });
}

// Inputs and outputs are float32 and the arithmetic is float64, so that 16-bit results are rounded as torch rounds
// float64.
Tensor forward(const Tensor& a) {
  STD_TORCH_CHECK(a.dim() > 0 && a.size(a.dim() - 1) == 8, "a must be (..., 8)");
  const Tensor x = dense(a, ScalarType::Float);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = 3, sizes.push_back(3);
  const Tensor theta = torch::stable::new_empty(x, sizes);
  const float* coefficients = numbers<float>(x);
  float* matrices = results<float>(theta);
  in_parallel(x.numel() / 8, [&](int64_t first, int64_t rows) {
    SIMD_BEST(exponential)(coefficients + 8 * first, matrices + 9 * first, rows);
  });
  return torch::stable::to(theta, a.scalar_type());
}

Tensor backward(const Tensor& grad, const Tensor& a) {
  const Tensor g = dense(grad, ScalarType::Float), x = dense(a, ScalarType::Float);
  STD_TORCH_CHECK(g.numel() * 8 == x.numel() * 9, "grad must be (..., 3, 3)");
  const Tensor grad_a = torch::stable::new_empty(x, x.sizes());
  const float *grad_matrices = numbers<float>(g), *coefficients = numbers<float>(x);
  float* grad_coefficients = results<float>(grad_a);
  in_parallel(x.numel() / 8, [&](int64_t first, int64_t rows) {
    SIMD_BEST(differentiate)(grad_matrices + 9 * first, coefficients + 8 * first, grad_coefficients + 8 * first, rows);
  });
  return torch::stable::to(grad_a, a.scalar_type());
}

}  // namespace homography_exp

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("homography_exp", TORCH_BOX(&homography_exp::forward));
  m.impl("homography_exp_backward", TORCH_BOX(&homography_exp::backward));
}
