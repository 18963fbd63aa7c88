// The ops on tensors. The loop over rows is left to `Device::run(arguments, rows, device index)`.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <tuple>
#include <vector>

#include "so3/arguments.h"

namespace so3 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_one_repeated(const Tensor& matrices) {
  const int64_t batch = matrices.dim() - 2;
  for (int64_t d = 0; d < batch; ++d)
    if (matrices.size(d) != 1 && matrices.stride(d) != 0) return false;
  return matrices.stride(batch) == 3 && matrices.stride(batch + 1) == 1;
}

inline Tensor dense(const Tensor& matrices, const Tensor& like) {
  const auto sizes = matrices.sizes();
  const size_t dim = sizes.size();
  STD_TORCH_CHECK(dim >= 2 && sizes[dim - 2] == 3 && sizes[dim - 1] == 3, "matrices must be (..., 3, 3)");
  STD_TORCH_CHECK(sizes.vec() == like.sizes().vec(), "matrices must be of one shape");
  STD_TORCH_CHECK(matrices.device() == like.device(), "matrices must be on one device");
  const ScalarType dtype = matrices.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "matrices must be float32 or float64");
  STD_TORCH_CHECK(dtype == like.scalar_type(), "matrices must be of one dtype");
  return is_one_repeated(matrices) ? matrices : torch::stable::contiguous(matrices);
}

template <class T> T* data(const Tensor& results) {
  return results.numel() ? static_cast<T*>(results.mutable_data_ptr()) : nullptr;
}

template <class T> Rows<T> rows(const Tensor& matrices) {
  return {static_cast<const T*>(matrices.const_data_ptr()), is_one_repeated(matrices) ? 0 : 9};
}

template <class Device> struct Ops {
  static Tensor project_to_so3(const Tensor& matrix) {
    const Tensor m = dense(matrix, matrix), rotation = torch::stable::new_empty(m, m.sizes());
    run(m, [&](auto scalar) {
      using T = decltype(scalar);
      return Project<T>{rows<T>(m), data<T>(rotation)};
    });
    return rotation;
  }

  static Tensor project_to_so3_backward(const Tensor& grad, const Tensor& matrix, const Tensor& rotation) {
    const Tensor g = dense(grad, matrix), m = dense(matrix, matrix), r = dense(rotation, matrix);
    const Tensor grad_matrix = torch::stable::new_empty(m, m.sizes());
    run(m, [&](auto scalar) {
      using T = decltype(scalar);
      return ProjectBackward<T>{rows<T>(g), rows<T>(m), rows<T>(r), data<T>(grad_matrix)};
    });
    return grad_matrix;
  }

  static std::tuple<Tensor, Tensor, Tensor> geodesic_distance(const Tensor& theta, const Tensor& theta_hat, double lam,
                                                              int64_t normalize, double smooth, double damping,
                                                              bool wants_theta, bool wants_theta_hat) {
    const Tensor a = dense(theta, theta), b = dense(theta_hat, theta);
    const std::vector<int64_t> sizes = a.sizes().vec(), batch(sizes.begin(), sizes.end() - 2), none = {0};
    const Tensor distance = torch::stable::new_empty(a, batch);
    const Tensor grad_theta = torch::stable::new_empty(a, wants_theta ? sizes : none);
    const Tensor grad_theta_hat = torch::stable::new_empty(a, wants_theta_hat ? sizes : none);
    run(a, [&](auto scalar) {
      using T = decltype(scalar);
      return GeodesicDistance<T>{rows<T>(a),        rows<T>(b),          {lam, normalize, smooth, damping},
                                 data<T>(distance), data<T>(grad_theta), data<T>(grad_theta_hat)};
    });
    return {distance, grad_theta, grad_theta_hat};
  }

 private:
  // arguments(T()) makes the arguments for numbers of type T.
  template <class F> static void run(const Tensor& like, F arguments) {
    const int64_t count = like.numel() / 9;
    if (count == 0) return;
    if (like.scalar_type() == ScalarType::Double)
      Device::run(arguments(double()), count, like.get_device_index());
    else
      Device::run(arguments(float()), count, like.get_device_index());
  }
};

}  // namespace so3
