// The ops' arguments as plain rows of numbers, the same for every device and instruction set.
#pragma once

#include <cstdint>

namespace so3 {

enum Normalize { NONE, FROBENIUS, DET };

struct Options {
  double lam;
  int64_t normalize;
  double smooth, damping;
};

template <class T> struct Rows {
  const T* data;
  int64_t stride;  // 9, or 0: one matrix for all rows
};

template <class T> struct Project {
  using Scalar = T;
  Rows<T> matrix;
  T* rotation;
};

template <class T> struct ProjectBackward {
  using Scalar = T;
  Rows<T> grad, matrix, rotation;
  T* grad_matrix;
};

template <class T> struct GeodesicDistance {
  using Scalar = T;
  Rows<T> theta, theta_hat;
  Options options;
  T *distance, *grad_theta, *grad_theta_hat;  // null: not asked for
};

}  // namespace so3
