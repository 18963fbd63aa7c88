// Tiles are computed one after the other, so that a tile's maps stay in the second-level cache. The result for a tile
// depends on nothing but the tile, and swapped tiles run the same arithmetic. It is included once per instruction set.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "align/align_equations_cpu.h"
#include "common/cholesky.h"

#ifndef ALIGN_ROWS_CPU_H
#define ALIGN_ROWS_CPU_H

namespace align {

struct Arguments {
  const Network& network;
  const float* predicted;  // [N, tile, tile]
  const float* target;     // [N, tile, tile]
  float* found;            // [N, COEFFICIENTS]
  float* matrix;           // [N, COEFFICIENTS, COEFFICIENTS]
  const float* grad;       // [N, COEFFICIENTS]
  float* grad_predicted;   // [N, tile, tile], or null: not asked for
  float* grad_target;      // [N, tile, tile], or null: not asked for
};

}  // namespace align

#endif

namespace align::SIMD_TARGET {

// Solves K a = v in place: v becomes a.
inline void solve(double (&k)[COEFFICIENTS][COEFFICIENTS], double (&v)[COEFFICIENTS]) {
  cholesky::SIMD_TARGET::factorize(k);
  cholesky::SIMD_TARGET::substitute(k, v);
}

// Returns the gradients by K and v of a = K^-1 v. K is symmetric, so with s = K^-1 grad a they are grad v = s and
// grad K = -s a^T, to which its transpose is added.
inline EquationsGradient solve_backward(const float* grad,      // [COEFFICIENTS]
                                        const float* found,     // [COEFFICIENTS], a
                                        const float* matrix) {  // [COEFFICIENTS, COEFFICIENTS], K
  double k[COEFFICIENTS][COEFFICIENTS], s[COEFFICIENTS];
  for (int i = 0; i < COEFFICIENTS; ++i) {
    s[i] = grad[i];
    std::copy_n(matrix + COEFFICIENTS * i, COEFFICIENTS, k[i]);
  }
  solve(k, s);
  EquationsGradient result;
  for (int i = 0; i < COEFFICIENTS; ++i) {
    result.vector[i] = static_cast<float>(s[i]);
    for (int j = 0; j < COEFFICIENTS; ++j)
      result.matrix[i][j] = static_cast<float>(-(s[i] * found[j] + found[i] * s[j]));
  }
  return result;
}

struct Tiles {
  Features first, second;
  FeaturesForward make_features;
  EquationsForward make_equations;

  explicit Tiles(const Network& net) : first(net), second(net), make_features(net), make_equations(net) {}

  void read(const Arguments& args, int64_t n) {
    const int64_t pixels = args.network.tile * args.network.tile;
    make_features(args.predicted + n * pixels, first);
    make_features(args.target + n * pixels, second);
  }
};

// a = (K_there + K_back + prior)^-1 (v_there - v_back), from the equations of both directions.
inline void forward(const Arguments& args, int64_t begin, int64_t end) {
  Tiles tiles(args.network);
  for (int64_t n = begin; n < end; ++n) {
    tiles.read(args, n);
    const Equations there = tiles.make_equations(tiles.first.maps, tiles.second.maps);
    const Equations back = tiles.make_equations(tiles.second.maps, tiles.first.maps);
    double matrix[COEFFICIENTS][COEFFICIENTS], vector[COEFFICIENTS];
    for (int i = 0; i < COEFFICIENTS; ++i) {
      vector[i] = there.vector[i] - back.vector[i];
      for (int j = 0; j < COEFFICIENTS; ++j) matrix[i][j] = there.matrix[i][j] + back.matrix[i][j];
      matrix[i][i] += args.network.prior[i];
      std::copy_n(matrix[i], COEFFICIENTS, args.matrix + COEFFICIENTS * (COEFFICIENTS * n + i));
    }
    solve(matrix, vector);
    std::copy_n(vector, COEFFICIENTS, args.found + COEFFICIENTS * n);
  }
}

inline void backward(const Arguments& args, int64_t begin, int64_t end) {
  Tiles tiles(args.network);
  EquationsBackward equations_backward(args.network);
  FeaturesBackward features_backward(args.network);
  Maps grad_first_maps(args.network, FEATURES), grad_second_maps(args.network, FEATURES);
  Maps* const grad_first = args.grad_predicted ? &grad_first_maps : nullptr;
  Maps* const grad_second = args.grad_target ? &grad_second_maps : nullptr;
  const int64_t pixels = args.network.tile * args.network.tile;
  for (int64_t n = begin; n < end; ++n) {
    const EquationsGradient there = solve_backward(args.grad + COEFFICIENTS * n, args.found + COEFFICIENTS * n,
                                                   args.matrix + COEFFICIENTS * COEFFICIENTS * n);
    EquationsGradient back = there;  // here v counts negatively
    for (float& number : back.vector) number = -number;
    tiles.read(args, n);
    const Maps &first = tiles.first.maps, &second = tiles.second.maps;
    for (Maps* grad : {&grad_first_maps, &grad_second_maps})
      std::fill(grad->numbers.begin(), grad->numbers.end(), 0.0f);
    equations_backward(tiles.make_equations, first, second, there, grad_first, grad_second);
    equations_backward(tiles.make_equations, second, first, back, grad_second, grad_first);
    if (grad_first) features_backward(tiles.first, grad_first_maps, args.grad_predicted + n * pixels);
    if (grad_second) features_backward(tiles.second, grad_second_maps, args.grad_target + n * pixels);
  }
}

}  // namespace align::SIMD_TARGET
