// Computes ROWS homographies at once, in loops over them that the compiler vectorizes. Every block is whole, so that a
// row's bits do not depend on its place. It is included once per instruction set.
//
// exp(A) = (exp(A / 32))^32, by its series to order 8 and five squarings. E = exp(A) - I is squared instead of exp(A),
// (I + E)^2 - I = 2 E + E^2, so that small numbers are not rounded at 1.
//
// Backward needs the adjoint of exp's derivative at A, which is its derivative at A^T. So it takes the same steps on
// the dual numbers X + epsilon D, epsilon^2 = 0, where X = A^T and D is the gradient by exp(A): each product X S
// becomes X S + epsilon (D S + X S'). The factor of epsilon is the gradient by A, and its inner products with the
// generators are the gradient by a.

#include <algorithm>
#include <cstdint>

#ifndef HOMOGRAPHY_EXP_ROWS_CPU_H
#define HOMOGRAPHY_EXP_ROWS_CPU_H

namespace homography_exp {

constexpr int ROWS = 8;  // in a block

}  // namespace homography_exp

#endif

namespace homography_exp::SIMD_TARGET {

constexpr double UNIT = 0.70710678118654752440, THIRD = UNIT / 3;  // the generators' entries are multiples of these

struct Matrix {
  double entry[9][ROWS];  // row-major
};

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c;
  for (int i = 0; i < 9; i += 3)
    for (int j = 0; j < 3; ++j)
      for (int r = 0; r < ROWS; ++r)
        c.entry[i + j][r] = a.entry[i][r] * b.entry[j][r] + a.entry[i + 1][r] * b.entry[3 + j][r] +
                            a.entry[i + 2][r] * b.entry[6 + j][r];
  return c;
}

inline Matrix sum(const Matrix& a, const Matrix& b) {
  Matrix c;
  for (int i = 0; i < 9; ++i)
    for (int r = 0; r < ROWS; ++r) c.entry[i][r] = a.entry[i][r] + b.entry[i][r];
  return c;
}

inline Matrix scaled(const Matrix& a, double factor) {
  Matrix c;
  for (int i = 0; i < 9; ++i)
    for (int r = 0; r < ROWS; ++r) c.entry[i][r] = a.entry[i][r] * factor;
  return c;
}

inline Matrix plus_identity(Matrix a) {
  for (int i = 0; i < 9; i += 4)
    for (int r = 0; r < ROWS; ++r) a.entry[i][r] += 1;
  return a;
}

inline Matrix transposed(const Matrix& a) {
  Matrix b;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) std::copy_n(a.entry[3 * i + j], ROWS, b.entry[3 * j + i]);
  return b;
}

// Returns sum_k a_k G_k for a block's rows, with the generators of sl3.py; zero for rows that are missing.
inline Matrix algebra(const float* a,  // [count, 8]
                      int64_t count) {
  float rows[8 * ROWS] = {};
  std::copy_n(a, 8 * count, rows);
  a = rows;
  Matrix m;
  for (int r = 0; r < ROWS; ++r, a += 8) {
    const double rotation = a[2] * UNIT, scale = a[3] * THIRD, aspect = a[4] * UNIT, shear = a[5] * UNIT;
    m.entry[0][r] = scale + aspect, m.entry[1][r] = shear - rotation, m.entry[2][r] = a[0];
    m.entry[3][r] = shear + rotation, m.entry[4][r] = scale - aspect, m.entry[5][r] = a[1];
    m.entry[6][r] = a[6] * UNIT, m.entry[7][r] = a[7] * UNIT, m.entry[8][r] = -2 * scale;
  }
  return m;
}

inline void exponential_block(const float* a,  // [count, 8]
                              float* theta,    // [count, 3, 3]
                              int64_t count) {
  const Matrix x = scaled(algebra(a, count), 1.0 / 32);
  Matrix series = plus_identity(scaled(x, 1.0 / 8));
  for (int order = 7; order > 1; --order) series = plus_identity(scaled(product(x, series), 1.0 / order));
  Matrix minus_one = product(x, series);
  for (int i = 0; i < 5; ++i) minus_one = sum(scaled(minus_one, 2), product(minus_one, minus_one));
  const Matrix result = plus_identity(minus_one);
  for (int64_t r = 0; r < count; ++r)
    for (int i = 0; i < 9; ++i) theta[9 * r + i] = result.entry[i][r];
}

inline void differentiate_block(const float* grad,  // [count, 3, 3]
                                const float* a,     // [count, 8]
                                float* grad_a,      // [count, 8]
                                int64_t count) {
  const Matrix x = scaled(transposed(algebra(a, count)), 1.0 / 32);
  Matrix d = {};
  for (int64_t r = 0; r < count; ++r)
    for (int i = 0; i < 9; ++i) d.entry[i][r] = grad[9 * r + i] / 32.0;
  Matrix series = plus_identity(scaled(x, 1.0 / 8)), d_series = scaled(d, 1.0 / 8);
  for (int order = 7; order > 1; --order) {
    d_series = scaled(sum(product(d, series), product(x, d_series)), 1.0 / order);
    series = plus_identity(scaled(product(x, series), 1.0 / order));
  }
  Matrix d_minus_one = sum(product(d, series), product(x, d_series)), minus_one = product(x, series);
  for (int i = 0; i < 5; ++i) {
    d_minus_one = sum(scaled(d_minus_one, 2), sum(product(d_minus_one, minus_one), product(minus_one, d_minus_one)));
    minus_one = sum(scaled(minus_one, 2), product(minus_one, minus_one));
  }
  const auto& g = d_minus_one.entry;  // the gradient by A
  for (int64_t r = 0; r < count; ++r, grad_a += 8) {
    grad_a[0] = g[2][r], grad_a[1] = g[5][r];
    grad_a[2] = (g[3][r] - g[1][r]) * UNIT;
    grad_a[3] = (g[0][r] + g[4][r] - 2 * g[8][r]) * THIRD;
    grad_a[4] = (g[0][r] - g[4][r]) * UNIT;
    grad_a[5] = (g[1][r] + g[3][r]) * UNIT;
    grad_a[6] = g[6][r] * UNIT, grad_a[7] = g[7][r] * UNIT;
  }
}

inline void exponential(const float* a,  // [rows, 8]
                        float* theta,    // [rows, 3, 3]
                        int64_t rows) {
  for (int64_t first = 0; first < rows; first += ROWS)
    exponential_block(a + 8 * first, theta + 9 * first, std::min<int64_t>(ROWS, rows - first));
}

inline void differentiate(const float* grad,  // [rows, 3, 3]
                          const float* a,     // [rows, 8]
                          float* grad_a,      // [rows, 8]
                          int64_t rows) {
  for (int64_t first = 0; first < rows; first += ROWS)
    differentiate_block(grad + 9 * first, a + 8 * first, grad_a + 8 * first, std::min<int64_t>(ROWS, rows - first));
}

}  // namespace homography_exp::SIMD_TARGET
