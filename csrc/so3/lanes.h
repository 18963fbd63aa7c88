// N floats or doubles in a SIMD register, with the functions of scalar.h, so that so3.h runs on N matrices at once.
// It is included once per instruction set.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "so3/rows.h"

namespace so3::SIMD_TARGET {

template <class T, int N> struct Lanes {
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Vector __attribute__((vector_size(N * sizeof(T))));
  typedef Integer Mask __attribute__((vector_size(N * sizeof(T))));
  struct Condition {
    Mask mask;
  };

  Vector v;
  Lanes() = default;
  FN Lanes(double x) : v(Vector{} + T(x)) {}
  FN Lanes(Vector x) : v(x) {}

  FN friend Lanes operator+(const Lanes& a, const Lanes& b) { return a.v + b.v; }
  FN friend Lanes operator-(const Lanes& a, const Lanes& b) { return a.v - b.v; }
  FN friend Lanes operator*(const Lanes& a, const Lanes& b) { return a.v * b.v; }
  FN friend Lanes divide(const Lanes& a, const Lanes& b) { return a.v / b.v; }
  FN friend Lanes operator-(const Lanes& a) { return -a.v; }
  FN friend Condition operator<(const Lanes& a, const Lanes& b) { return {a.v < b.v}; }
  FN friend Condition operator>(const Lanes& a, const Lanes& b) { return {a.v > b.v}; }
  FN friend Lanes select(const Condition& c, const Lanes& a, const Lanes& b) { return c.mask ? a.v : b.v; }
  FN friend bool any(const Condition& c) {
    Integer either = 0;
    for (int i = 0; i < N; ++i) either |= c.mask[i];
    return either;
  }

  template <class F> FN static Lanes each(F f) {  // the compiler makes vector instructions of these loops
    Lanes r;
    for (int i = 0; i < N; ++i) r.v[i] = f(i);
    return r;
  }
  FN friend Lanes sqrt(const Lanes& a) {
    return each([&](int i) { return sqrt(a.v[i]); });
  }
  FN friend Lanes rsqrt(const Lanes& a) { return divide(Lanes(1), sqrt(a)); }
  FN friend Lanes cbrt(const Lanes& a) {
    return each([&](int i) { return cbrt(a.v[i]); });
  }
  FN friend Lanes abs(const Lanes& a) {
    return each([&](int i) { return abs(a.v[i]); });
  }
  FN friend Lanes copysign(const Lanes& a, const Lanes& sign) {
    return each([&](int i) { return copysign(a.v[i], sign.v[i]); });
  }
  FN friend Lanes inverse_power_of_two(const Lanes& a) {
    return each([&](int i) { return inverse_power_of_two(a.v[i]); });
  }
};

template <class T, int N> struct ScalarOf<Lanes<T, N>> {
  using type = T;
};

// N rows from the first on. Where fewer are left, the last one is repeated.
template <class T, int N> struct Access<Lanes<T, N>> {
  using L = Lanes<T, N>;
  static constexpr int ROWS = N;
  int64_t first;
  int count;

  FN Matrix<L> load(const Rows<T>& rows) const {
    const T* data = rows.data + first * rows.stride;
    T copies[9 * N];
    if (count < N || rows.stride == 0) {
      for (int i = 0; i < N; ++i)
        std::memcpy(copies + 9 * i, data + std::min(i, count - 1) * rows.stride, 9 * sizeof(T));
      data = copies;
    }
    return load_matrix([&](int k) { return L::each([&](int i) { return data[9 * i + k]; }); });
  }
  FN void store(T* results, const Matrix<L>& matrix) const {  // results: [N, 3, 3]
    T copies[9 * N], *data = count < N ? copies : results + 9 * first;
    store_matrix(matrix, [&](int k, const L& x) {
      for (int i = 0; i < N; ++i) data[9 * i + k] = x.v[i];
    });
    if (count < N) std::memcpy(results + 9 * first, copies, 9 * count * sizeof(T));
  }
  // results: [N]
  FN void store(T* results, const L& number) const { std::memcpy(results + first, &number, count * sizeof(T)); }
};

}  // namespace so3::SIMD_TARGET
