// Rows of resized maps, cut into tiles, for one instruction set: written for the compiler's vectoriser.

#include "resize_rows_cpu.h"

namespace extract_tiles::SIMD_TARGET {

using resize::SIMD_TARGET::add_adjoint;
using resize::SIMD_TARGET::lerp;
using resize::SIMD_TARGET::stretch;

constexpr float VOID = 255, VOID_SHARE = 1e-3f;  // as in the reference

// A row of pixels, resized across.
struct Row {
  std::vector<float> pixels, resized;

  Row(const Axis& columns) : pixels(columns.size), resized(columns.full) {}
  const float* kind(const Axis& columns, const float* __restrict target, float which) {
    float* __restrict is = pixels.data();
    for (int64_t x = 0; x < columns.size; ++x) is[x] = target[x] == which;
    stretch(columns, is, resized.data());
    return resized.data();
  }
};

// The rows [begin, end) of all resized maps.
inline void rows(const Forward& of, int64_t begin, int64_t end) {
  const int64_t height = of.rows.full, width = of.columns.full, tile = of.grid.tile;
  std::vector<float> above(width), below(width), predicted(width), boundary(width);
  std::vector<uint8_t> valid(width);
  Row boundary_above(of.target_columns), boundary_below(of.target_columns);
  Row void_above(of.target_columns), void_below(of.target_columns);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / height, y = row % height;
    const float* maps = of.predicted + n * of.rows.size * of.columns.size;
    stretch(of.columns, maps + of.rows.before[y] * of.columns.size, above.data());
    stretch(of.columns, maps + of.rows.after[y] * of.columns.size, below.data());
    const float* target = of.target + n * of.target_rows.size * of.target_columns.size;
    const float* first = target + of.target_rows.before[y] * of.target_columns.size;
    const float* second = target + of.target_rows.after[y] * of.target_columns.size;
    const float* first_boundary = boundary_above.kind(of.target_columns, first, 1);
    const float* second_boundary = boundary_below.kind(of.target_columns, second, 1);
    const float* first_void = void_above.kind(of.target_columns, first, VOID);
    const float* second_void = void_below.kind(of.target_columns, second, VOID);
    const float share = of.rows.share[y], target_share = of.target_rows.share[y];
    for (int64_t x = 0; x < width; ++x) {
      const bool clean = lerp(first_void[x], second_void[x], target_share) < VOID_SHARE;
      predicted[x] = clean ? lerp(above[x], below[x], share) : 0;
      boundary[x] = clean ? lerp(first_boundary[x], second_boundary[x], target_share) : 0;
      valid[x] = clean;
    }
    for (int64_t column = 0; column < of.grid.columns; ++column) {
      const int64_t from = column * tile, to = column * tile * tile;
      std::copy_n(predicted.data() + from, tile, of.grid.row(of.predicted_tiles, n, height, y) + to);
      std::copy_n(boundary.data() + from, tile, of.grid.row(of.true_tiles, n, height, y) + to);
      std::copy_n(valid.data() + from, tile, of.grid.row(of.valid, n, height, y) + to);
    }
  }
}

// The cells [begin, end) of the gradient, see for_cells.
inline void cells(const Backward& of, int64_t begin, int64_t end, int64_t parity) {
  const int64_t height = of.rows.full, width = of.columns.full, tile = of.grid.tile;
  std::vector<float> to_first(width), to_second(width);
  for (int64_t i = begin; i < end; ++i) {
    const auto [n, y, below, top, bottom, mixed] = resize::SIMD_TARGET::cell(of.rows, i, parity);
    std::fill(to_first.begin(), to_first.end(), 0.0f);
    std::fill(to_second.begin(), to_second.end(), 0.0f);
    for (int64_t row = top; row < bottom; ++row) {
      const float share = of.rows.share[row];
      for (int64_t column = 0; column < of.grid.columns; ++column) {
        const float* __restrict grad = of.grid.row(of.grad, n, height, row) + column * tile * tile;
        const uint8_t* __restrict valid = of.grid.row(of.valid, n, height, row) + column * tile * tile;
        float* __restrict first = to_first.data() + column * tile;
        float* __restrict second = to_second.data() + column * tile;
        for (int64_t x = 0; x < tile; ++x) {
          const float counted = valid[x] ? grad[x] : 0;
          first[x] += (1 - share) * counted;
          second[x] += share * counted;
        }
      }
    }
    float* gradient = of.gradient + n * of.rows.size * of.columns.size;
    add_adjoint(of.columns, to_first.data(), gradient + y * of.columns.size);
    add_adjoint(of.columns, to_second.data(), gradient + below * of.columns.size);
  }
}

}  // namespace extract_tiles::SIMD_TARGET
