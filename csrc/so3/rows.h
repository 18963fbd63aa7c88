// The ops on rows of numbers. `Access` reads and writes the matrix of one row; lanes.h and so3_cuda.cu have others, for
// many rows. It is included once per instruction set.

#include <cstdint>

#include "so3/arguments.h"
#include "so3/so3.h"

namespace so3::SIMD_TARGET {

template <class F> FN auto load_matrix(F entry) -> Matrix<decltype(entry(0))> {  // entry(k): number k, row-major
  return {{entry(0), entry(3), entry(6)}, {entry(1), entry(4), entry(7)}, {entry(2), entry(5), entry(8)}};
}

template <class T, class F> FN void store_matrix(const Matrix<T>& m, F write) {
  write(0, m.x.x), write(1, m.y.x), write(2, m.z.x);
  write(3, m.x.y), write(4, m.y.y), write(5, m.z.y);
  write(6, m.x.z), write(7, m.y.z), write(8, m.z.z);
}

template <class T> struct Access {
  static constexpr int ROWS = 1;
  int64_t first;
  int count;

  FN Matrix<T> load(const Rows<T>& rows) const {
    const T* data = rows.data + first * rows.stride;
    return load_matrix([&](int k) { return data[k]; });
  }
  FN void store(T* results, const Matrix<T>& matrix) const {  // results: [N, 3, 3]
    store_matrix(matrix, [&](int k, T x) { results[9 * first + k] = x; });
  }
  FN void store(T* results, T number) const { results[first] = number; }  // results: [N]
};

template <class A, class T> FN void compute(const A& access, const Project<T>& args) {
  access.store(args.rotation, project(access.load(args.matrix)));
}

template <class A, class T> FN void compute(const A& access, const ProjectBackward<T>& args) {
  access.store(args.grad_matrix,
               project_backward(access.load(args.grad), access.load(args.matrix), access.load(args.rotation)));
}

template <class A, class T> FN void compute(const A& access, const GeodesicDistance<T>& args) {
  const auto result = geodesic_distance(access.load(args.theta), access.load(args.theta_hat), args.options);
  access.store(args.distance, result.value);
  if (args.grad_theta) access.store(args.grad_theta, result.grad_theta);
  if (args.grad_theta_hat) access.store(args.grad_theta_hat, result.grad_theta_hat);
}

}  // namespace so3::SIMD_TARGET
