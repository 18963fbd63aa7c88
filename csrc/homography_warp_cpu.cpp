// homography_warp on a CPU; the work is done in homography_warp_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "common/dense.h"

#define SIMD_SOURCE "homography_warp_rows_cpu.h"
#include "common/simd.h"

namespace homography_warp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t GRAIN = 32768;  // pixels that are worth a thread

Warp make_warp(const Tensor& image, const Tensor& theta, int64_t result_height, int64_t result_width, bool nearest,
               bool border) {
  STD_TORCH_CHECK(image.dim() == 4 && theta.dim() == 4 && theta.size(0) == image.size(0) && theta.size(2) == 3 &&
                      theta.size(3) == 3,
                  "image must be (N, C, H, W) and theta (N, T, 3, 3)");
  const int64_t height = image.size(2), width = image.size(3);
  // Coordinates must be exact in float32, and the offsets of a pixel's neighbours must fit into int32.
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
  const Warp args = make_warp(images, thetas, size[0], size[1], nearest, border);
  const int64_t n = image.size(0), pixels = args.channels * size[0] * size[1];
  const Tensor result = torch::stable::new_empty(images, {n, args.views, args.channels, size[0], size[1]});
  if (result.numel()) {
    float* data = results<float>(result);
    torch::stable::parallel_for(0, n * args.views, GRAIN / pixels + 1,
                                [&](int64_t begin, int64_t end) { SIMD_BEST(warp)(args, data, begin, end); });
  }
  return torch::stable::to(result, image.scalar_type());
}

// Returns the gradients of image and theta, empty where they were not asked for.
std::tuple<Tensor, Tensor> homography_warp_backward(const Tensor& grad, const Tensor& image, const Tensor& theta,
                                                    bool nearest, bool border, bool wants_image, bool wants_theta) {
  const Tensor grads = dense(grad, ScalarType::Float), images = dense(image, ScalarType::Float),
               thetas = dense(theta, ScalarType::Float);
  STD_TORCH_CHECK(grad.dim() == 5, "grad must be (N, T, C, H', W')");
  const Warp args = make_warp(images, thetas, grad.size(3), grad.size(4), nearest, border);
  STD_TORCH_CHECK(grad.size(0) == image.size(0) && grad.size(1) == args.views && grad.size(2) == args.channels,
                  "grad must be (N, T, C, H', W')");
  const std::vector<int64_t> none = {0};
  const Tensor grad_image = torch::stable::new_zeros(images, wants_image ? images.sizes().vec() : none);
  const Tensor grad_theta = torch::stable::new_zeros(thetas, wants_theta ? thetas.sizes().vec() : none);
  if (grad.numel()) {
    const float* grad_views = numbers<float>(grads);
    float* image_data = results<float>(grad_image);
    // Where the nearest pixel is sampled, theta's gradient is zero.
    float* theta_data = nearest ? nullptr : results<float>(grad_theta);
    const int64_t n = image.size(0);
    torch::stable::parallel_for(0, n, GRAIN / (grad.numel() / n) + 1, [&](int64_t begin, int64_t end) {
      SIMD_BEST(backward)(args, grad_views, image_data, theta_data, begin, end);
    });
  }
  return {torch::stable::to(grad_image, image.scalar_type()), torch::stable::to(grad_theta, theta.scalar_type())};
}

}  // namespace homography_warp

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("homography_warp", TORCH_BOX(&homography_warp::homography_warp));
  m.impl("homography_warp_backward", TORCH_BOX(&homography_warp::homography_warp_backward));
}
