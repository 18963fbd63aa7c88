// Solves equations K a = v of a symmetric, positive K by Cholesky's factorization. It is included once per instruction
// set.

#include <cmath>

namespace cholesky::SIMD_TARGET {

// The lower half of k becomes the factor.
template <int SIZE> inline void factorize(double (&k)[SIZE][SIZE]) {
  for (int j = 0; j < SIZE; ++j) {
    for (int i = j; i < SIZE; ++i)
      for (int l = 0; l < j; ++l) k[i][j] -= k[i][l] * k[j][l];
    k[j][j] = std::sqrt(k[j][j]);
    for (int i = j + 1; i < SIZE; ++i) k[i][j] /= k[j][j];
  }
}

// v becomes a.
template <int SIZE> inline void substitute(const double (&factor)[SIZE][SIZE], double (&v)[SIZE]) {
  for (int i = 0; i < SIZE; ++i) {
    for (int l = 0; l < i; ++l) v[i] -= factor[i][l] * v[l];
    v[i] /= factor[i][i];
  }
  for (int i = SIZE - 1; i >= 0; --i) {
    for (int l = i + 1; l < SIZE; ++l) v[i] -= factor[l][i] * v[l];
    v[i] /= factor[i][i];
  }
}

}  // namespace cholesky::SIMD_TARGET
