// One tile after the other, for one instruction set: its maps stay in the second cache. What becomes of a tile depends
// on nothing but the tile, and swapped tiles run the same arithmetic.

#include "align_product_cpu.h"
#include "align_features_cpu.h"
#include "align_equations_cpu.h"

namespace align::SIMD_TARGET {

// In place, by Cholesky's factor; the vector becomes the solution.
inline void solve(double (&k)[8][8], double (&v)[8]) {
  for (int j = 0; j < 8; ++j) {
    for (int i = j; i < 8; ++i)
      for (int l = 0; l < j; ++l) k[i][j] -= k[i][l] * k[j][l];
    k[j][j] = std::sqrt(k[j][j]);
    for (int i = j + 1; i < 8; ++i) k[i][j] /= k[j][j];
  }
  for (int i = 0; i < 8; ++i) {
    for (int l = 0; l < i; ++l) v[i] -= k[i][l] * v[l];
    v[i] /= k[i][i];
  }
  for (int i = 7; i >= 0; --i) {
    for (int l = i + 1; l < 8; ++l) v[i] -= k[l][i] * v[l];
    v[i] /= k[i][i];
  }
}

struct Tiles {
  Features first, second;
  FeaturesForward features;
  EquationsForward equations;

  explicit Tiles(const Network& of) : first(of), second(of), features(of), equations(of) {}
};

inline void forward(const Arguments& of, int64_t begin, int64_t end) {
  Tiles tiles(of.network);
  const int64_t pixels = of.network.tile * of.network.tile;
  for (int64_t n = begin; n < end; ++n) {
    tiles.features(of.predicted + n * pixels, tiles.first);
    tiles.features(of.target + n * pixels, tiles.second);
    const Equations there = tiles.equations(tiles.first.maps, tiles.second.maps);
    const Equations back = tiles.equations(tiles.second.maps, tiles.first.maps);
    double matrix[8][8], vector[8];
    for (int i = 0; i < 8; ++i) {
      vector[i] = there.vector[i] - back.vector[i];
      for (int j = 0; j < 8; ++j) matrix[i][j] = there.matrix[i][j] + back.matrix[i][j];
      matrix[i][i] += of.network.prior[i];
      std::copy_n(matrix[i], 8, of.matrix + 64 * n + 8 * i);
    }
    solve(matrix, vector);
    std::copy_n(vector, 8, of.found + 8 * n);
  }
}

inline void backward(const Arguments& of, int64_t begin, int64_t end) {
  Tiles tiles(of.network);
  EquationsBackward equations_backward(of.network);
  FeaturesBackward features_backward(of.network);
  Maps by_first(of.network, FEATURES), by_second(of.network, FEATURES);
  const int64_t pixels = of.network.tile * of.network.tile;
  for (int64_t n = begin; n < end; ++n) {
    double matrix[8][8], by_solution[8];
    for (int i = 0; i < 8; ++i) {
      by_solution[i] = of.grad[8 * n + i];
      std::copy_n(of.matrix + 64 * n + 8 * i, 8, matrix[i]);
    }
    solve(matrix, by_solution);
    const float* found = of.found + 8 * n;
    float by_matrix[8][8], by_vector[8], by_other_vector[8];
    for (int i = 0; i < 8; ++i) {
      by_vector[i] = static_cast<float>(by_solution[i]), by_other_vector[i] = -by_vector[i];
      for (int j = 0; j < 8; ++j)  // with its transposed: rows enter the matrix twice
        by_matrix[i][j] = static_cast<float>(-(by_solution[i] * found[j] + found[i] * by_solution[j]));
    }
    tiles.features(of.predicted + n * pixels, tiles.first);
    tiles.features(of.target + n * pixels, tiles.second);
    const Maps &first = tiles.first.maps, &second = tiles.second.maps;
    for (Maps* by : {&by_first, &by_second}) std::fill(by->numbers.begin(), by->numbers.end(), 0.0f);
    Maps *to_first = of.grad_predicted ? &by_first : nullptr, *to_second = of.grad_target ? &by_second : nullptr;
    equations_backward(tiles.equations, first, second, by_matrix, by_vector, to_first, to_second);
    equations_backward(tiles.equations, second, first, by_matrix, by_other_vector, to_second, to_first);
    if (to_first) features_backward(tiles.first, by_first, of.grad_predicted + n * pixels);
    if (to_second) features_backward(tiles.second, by_second, of.grad_target + n * pixels);
  }
}

}  // namespace align::SIMD_TARGET
