// The ops on rows of numbers. `Access` reads and writes matrices: of one row here, of many in lanes.h and so3_cuda.cu.

namespace so3::SIMD_TARGET {

template <class F> FN auto load_matrix(F at) -> Matrix<decltype(at(0))> {  // from row-major numbers
  return {{at(0), at(3), at(6)}, {at(1), at(4), at(7)}, {at(2), at(5), at(8)}};
}

template <class T, class F> FN void store_matrix(const Matrix<T>& m, F to) {
  to(0, m.x.x), to(1, m.y.x), to(2, m.z.x);
  to(3, m.x.y), to(4, m.y.y), to(5, m.z.y);
  to(6, m.x.z), to(7, m.y.z), to(8, m.z.z);
}

template <class T> struct Access {
  static constexpr int ROWS = 1;
  int64_t first;
  int count;

  FN Matrix<T> load(const Rows<T>& rows) const {
    const T* data = rows.data + first * rows.stride;
    return load_matrix([&](int k) { return data[k]; });
  }
  FN void store(T* to, const Matrix<T>& matrix) const {
    store_matrix(matrix, [&](int k, T x) { to[9 * first + k] = x; });
  }
  FN void store(T* to, T number) const { to[first] = number; }
};

template <class A, class T> FN void compute(const A& access, const Project<T>& of) {
  access.store(of.rotation, project(access.load(of.matrix)));
}

template <class A, class T> FN void compute(const A& access, const ProjectBackward<T>& of) {
  access.store(of.grad_matrix,
               project_backward(access.load(of.grad), access.load(of.matrix), access.load(of.rotation)));
}

template <class A, class T> FN void compute(const A& access, const GeodesicDistance<T>& of) {
  const auto result = geodesic_distance(access.load(of.theta), access.load(of.theta_hat), of.options);
  access.store(of.distance, result.value);
  if (of.grad_theta) access.store(of.grad_theta, result.grad_theta);
  if (of.grad_theta_hat) access.store(of.grad_theta_hat, result.grad_theta_hat);
}

}  // namespace so3::SIMD_TARGET
