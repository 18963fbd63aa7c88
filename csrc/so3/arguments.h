// The ops' arguments as plain rows of numbers. They are the same for every device and instruction set.
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
  const T* data;   // [N, 3, 3], or [3, 3]
  int64_t stride;  // 9, or 0: one matrix for all rows
};

template <class T> struct Project {
  using Scalar = T;
  Rows<T> matrix;
  T* rotation;  // [N, 3, 3]
};

template <class T> struct ProjectBackward {
  using Scalar = T;
  Rows<T> grad, matrix, rotation;
  T* grad_matrix;  // [N, 3, 3]
};

template <class T> struct GeodesicDistance {
  using Scalar = T;
  Rows<T> theta, theta_hat;
  Options options;
  T* distance;        // [N]
  T* grad_theta;      // [N, 3, 3], or null: not asked for
  T* grad_theta_hat;  // [N, 3, 3], or null: not asked for
};

}  // namespace so3
