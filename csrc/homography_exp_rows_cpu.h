// ROWS homographies at once, for one instruction set: the compiler makes vectors of the loops over them. Every block is
// whole, so that a row's bits do not depend on its place.

namespace homography_exp::SIMD_TARGET {

constexpr double UNIT = 0.70710678118654752440, THIRD = UNIT / 3;  // the generators' entries are multiples of them

struct Matrix {  // row-major
  double at[9][ROWS];
};

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c;
  for (int i = 0; i < 9; i += 3)
    for (int j = 0; j < 3; ++j)
      for (int r = 0; r < ROWS; ++r)
        c.at[i + j][r] = a.at[i][r] * b.at[j][r] + a.at[i + 1][r] * b.at[3 + j][r] + a.at[i + 2][r] * b.at[6 + j][r];
  return c;
}

inline Matrix sum(const Matrix& a, const Matrix& b) {
  Matrix c;
  for (int i = 0; i < 9; ++i)
    for (int r = 0; r < ROWS; ++r) c.at[i][r] = a.at[i][r] + b.at[i][r];
  return c;
}

inline Matrix scaled(const Matrix& a, double factor) {
  Matrix c;
  for (int i = 0; i < 9; ++i)
    for (int r = 0; r < ROWS; ++r) c.at[i][r] = a.at[i][r] * factor;
  return c;
}

inline Matrix plus_identity(Matrix a) {
  for (int i = 0; i < 9; i += 4)
    for (int r = 0; r < ROWS; ++r) a.at[i][r] += 1;
  return a;
}

inline Matrix transposed(const Matrix& a) {
  Matrix b;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) std::copy_n(a.at[3 * i + j], ROWS, b.at[3 * j + i]);
  return b;
}

// sum_k a_k G_k of a block's rows, the generators as generators.py has them; where rows are missing, zero.
inline Matrix algebra(const float* a, int64_t count) {
  float rows[8 * ROWS] = {};
  std::copy_n(a, 8 * count, rows);
  a = rows;
  Matrix m;
  for (int r = 0; r < ROWS; ++r, a += 8) {
    const double rotation = a[2] * UNIT, scale = a[3] * THIRD, aspect = a[4] * UNIT, shear = a[5] * UNIT;
    m.at[0][r] = scale + aspect, m.at[1][r] = shear - rotation, m.at[2][r] = a[0];
    m.at[3][r] = shear + rotation, m.at[4][r] = scale - aspect, m.at[5][r] = a[1];
    m.at[6][r] = a[6] * UNIT, m.at[7][r] = a[7] * UNIT, m.at[8][r] = -2 * scale;
  }
  return m;
}

// Of one block.
inline void exponential_of(const float* a, float* theta, int64_t count) {
  const Matrix x = scaled(algebra(a, count), 1.0 / 32);
  Matrix series = plus_identity(scaled(x, 1.0 / 8));
  for (int order = 7; order > 1; --order) series = plus_identity(scaled(product(x, series), 1.0 / order));
  Matrix minus_one = product(x, series);
  for (int i = 0; i < 5; ++i) minus_one = sum(scaled(minus_one, 2), product(minus_one, minus_one));
  const Matrix result = plus_identity(minus_one);
  for (int64_t r = 0; r < count; ++r)
    for (int i = 0; i < 9; ++i) theta[9 * r + i] = result.at[i][r];
}

// The adjoint of exp's derivative at A is its derivative at A^T: the above on x + epsilon d, epsilon^2 = 0.
inline void differentiate_of(const float* grad, const float* a, float* grad_a, int64_t count) {
  const Matrix x = scaled(transposed(algebra(a, count)), 1.0 / 32);
  Matrix d = {};
  for (int64_t r = 0; r < count; ++r)
    for (int i = 0; i < 9; ++i) d.at[i][r] = grad[9 * r + i] / 32.0;
  Matrix series = plus_identity(scaled(x, 1.0 / 8)), by_series = scaled(d, 1.0 / 8);
  for (int order = 7; order > 1; --order) {
    by_series = scaled(sum(product(d, series), product(x, by_series)), 1.0 / order);
    series = plus_identity(scaled(product(x, series), 1.0 / order));
  }
  Matrix by = sum(product(d, series), product(x, by_series)), minus_one = product(x, series);
  for (int i = 0; i < 5; ++i) {
    by = sum(scaled(by, 2), sum(product(by, minus_one), product(minus_one, by)));
    minus_one = sum(scaled(minus_one, 2), product(minus_one, minus_one));
  }
  const auto& g = by.at;
  for (int64_t r = 0; r < count; ++r, grad_a += 8) {  // inner products with the generators
    grad_a[0] = g[2][r], grad_a[1] = g[5][r];
    grad_a[2] = (g[3][r] - g[1][r]) * UNIT;
    grad_a[3] = (g[0][r] + g[4][r] - 2 * g[8][r]) * THIRD;
    grad_a[4] = (g[0][r] - g[4][r]) * UNIT;
    grad_a[5] = (g[1][r] + g[3][r]) * UNIT;
    grad_a[6] = g[6][r] * UNIT, grad_a[7] = g[7][r] * UNIT;
  }
}

inline void exponential(const float* a, float* theta, int64_t rows) {
  for (int64_t first = 0; first < rows; first += ROWS)
    exponential_of(a + 8 * first, theta + 9 * first, std::min<int64_t>(ROWS, rows - first));
}

inline void differentiate(const float* grad, const float* a, float* grad_a, int64_t rows) {
  for (int64_t first = 0; first < rows; first += ROWS)
    differentiate_of(grad + 9 * first, a + 8 * first, grad_a + 8 * first, std::min<int64_t>(ROWS, rows - first));
}

}  // namespace homography_exp::SIMD_TARGET
