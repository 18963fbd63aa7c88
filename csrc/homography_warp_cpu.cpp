// homography_warp on a CPU; the work is done in homography_warp_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "dense.h"

namespace homography_warp {

struct Warp {
  const float* image;  // (N, C, H, W)
  const float* theta;  // (N, T, 3, 3)
  int64_t views, channels, height, width, result_height, result_width;
  bool nearest, border;
};

}  // namespace homography_warp

#define SIMD_SOURCE "homography_warp_rows_cpu.h"
#include "simd.h"

namespace homography_warp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t GRAIN = 32768;  // pixels that are worth a thread

Warp warp_of(const Tensor& image, const Tensor& theta, int64_t result_height, int64_t result_width, bool nearest,
             bool border) {
  STD_TORCH_CHECK(image.dim() == 4 && theta.dim() == 4 && theta.size(0) == image.size(0) && theta.size(2) == 3 &&
                      theta.size(3) == 3,
                  "image must be (N, C, H, W) and theta (N, T, 3, 3)");
  const int64_t height = image.size(2), width = image.size(3);
  // Coordinates are exact in float32, offsets of a pixel's neighbours fit into int32.
  STD_TORCH_CHECK(height > 0 && width > 0 && std::max(height, width) < 1 << 24 &&
                      (height + 2) * (width + 2) <= std::numeric_limits<int32_t>::max(),
                  "image must have at least one pixel, fewer than 2^31, and fewer than 2^24 in a row or column");
  return {numbers<float>(image), numbers<float>(theta), theta.size(1), image.size(1), height, width,
          result_height,         result_width,          nearest,       border};
}

Tensor homography_warp(const Tensor& image, const Tensor& theta, const std::vector<int64_t>& size, bool nearest,
                       bool border) {
  STD_TORCH_CHECK(size.size() == 2, "size must be (height, width)");
  const Tensor images = dense(image, ScalarType::Float), thetas = dense(theta, ScalarType::Float);
  const Warp of = warp_of(images, thetas, size[0], size[1], nearest, border);
  const int64_t n = image.size(0), pixels = of.channels * size[0] * size[1];
  const Tensor result = torch::stable::new_empty(images, {n, of.views, of.channels, size[0], size[1]});
  if (result.numel()) {
    float* data = results<float>(result);
    torch::stable::parallel_for(0, n * of.views, GRAIN / pixels + 1,
                                [&](int64_t begin, int64_t end) { SIMD_BEST(warp)(of, data, begin, end); });
  }
  return torch::stable::to(result, image.scalar_type());
}

// Gradients of image and theta; empty where not asked for.
std::tuple<Tensor, Tensor> homography_warp_backward(const Tensor& grad, const Tensor& image, const Tensor& theta,
                                                    bool nearest, bool border, bool of_image, bool of_theta) {
  const Tensor grads = dense(grad, ScalarType::Float), images = dense(image, ScalarType::Float),
               thetas = dense(theta, ScalarType::Float);
  STD_TORCH_CHECK(grad.dim() == 5, "grad must be (N, T, C, H', W')");
  const Warp of = warp_of(images, thetas, grad.size(3), grad.size(4), nearest, border);
  STD_TORCH_CHECK(grad.size(0) == image.size(0) && grad.size(1) == of.views && grad.size(2) == of.channels,
                  "grad must be (N, T, C, H', W')");
  const std::vector<int64_t> none = {0};
  const Tensor grad_image = torch::stable::new_zeros(images, of_image ? images.sizes().vec() : none);
  const Tensor grad_theta = torch::stable::new_zeros(thetas, of_theta ? thetas.sizes().vec() : none);
  if (grad.numel()) {
    const float* from = numbers<float>(grads);
    float* to_image = results<float>(grad_image);
    // By nearest, theta's gradient is zero.
    float* to_theta = nearest ? nullptr : results<float>(grad_theta);
    const int64_t n = image.size(0);
    torch::stable::parallel_for(0, n, GRAIN / (grad.numel() / n) + 1, [&](int64_t begin, int64_t end) {
      SIMD_BEST(backward)(of, from, to_image, to_theta, begin, end);
    });
  }
  return {torch::stable::to(grad_image, image.scalar_type()), torch::stable::to(grad_theta, theta.scalar_type())};
}

}  // namespace homography_warp

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("homography_warp", TORCH_BOX(&homography_warp::homography_warp));
  m.impl("homography_warp_backward", TORCH_BOX(&homography_warp::homography_warp_backward));
}
