// Rows of resized maps, cut into tiles, in plain loops that the compiler vectorizes. It is included once per
// instruction set.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/elementary.h"
#include "common/resize_rows_cpu.h"

#ifndef EXTRACT_TILES_ROWS_CPU_H
#define EXTRACT_TILES_ROWS_CPU_H

namespace extract_tiles {

struct Grid {  // an image's tiles
  int64_t columns, tile;

  // Where row y of image n begins in the first tile that it crosses. The images have `height` rows.
  template <class T> T* row(T* tiles, int64_t n, int64_t height, int64_t y) const {
    return tiles + (((n * (height / tile) + y / tile) * columns) * tile + y % tile) * tile;
  }
};

struct Forward {
  const float* predicted;  // [N, h, w], probabilities
  const float* target;     // [N, H, W]
  float* predicted_tiles;  // [N * rows * columns, tile, tile]
  float* true_tiles;       // [N * rows * columns, tile, tile]
  uint8_t* valid;          // [N * rows * columns, tile, tile]
  Axis rows, columns, target_rows, target_columns;
  Grid grid;
};

struct Backward {
  const float* grad;      // [N * rows * columns, tile, tile]
  const uint8_t* valid;   // [N * rows * columns, tile, tile]
  float* grad_predicted;  // [N, h, w], zero
  Axis rows, columns;
  Grid grid;
};

}  // namespace extract_tiles

#endif

namespace extract_tiles::SIMD_TARGET {

using elementary::SIMD_TARGET::sigmoids;
using resize::SIMD_TARGET::add_adjoint;
using resize::SIMD_TARGET::lerp;
using resize::SIMD_TARGET::stretch;

constexpr float VOID = 255, VOID_SHARE = 1e-3f;  // as in the reference

inline void squash(const float* __restrict logits,  // [rows, width]
                   int64_t rows, int64_t width,
                   float* __restrict probabilities) {  // [rows, width]
  for (int64_t row = 0; row < rows; ++row, logits += width, probabilities += width)
    for (int64_t x = 0; x < width; ++x) probabilities[x] = sigmoids(logits[x]).chance;
}

// Turns the gradient by the probabilities into that by the logits.
inline void scale_by_slopes(const float* __restrict logits,  // [rows, width]
                            int64_t rows, int64_t width,
                            float* __restrict grad) {  // [rows, width]
  for (int64_t row = 0; row < rows; ++row, logits += width, grad += width)
    for (int64_t x = 0; x < width; ++x) {
      const auto [chance, doubt, log1p] = sigmoids(logits[x]);
      grad[x] *= chance * doubt;
    }
}

// A row of the target, resized to the share of one kind of pixel.
struct TargetRow {
  std::vector<float> is_kind, share;  // [W], [width of the grid]

  explicit TargetRow(const Axis& columns) : is_kind(columns.size), share(columns.full) {}
  const float* operator()(const Axis& columns, const float* __restrict target, float kind) {  // target: [W]
    float* __restrict is = is_kind.data();
    for (int64_t x = 0; x < columns.size; ++x) is[x] = target[x] == kind;
    stretch(columns, is, share.data());
    return share.data();
  }
};

// A row of both maps at the grid's size.
class Resized {
 public:
  std::vector<float> predicted, boundary;  // [width]
  std::vector<uint8_t> valid;              // [width]

  explicit Resized(const Forward& args)
      : predicted(args.columns.full),
        boundary(args.columns.full),
        valid(args.columns.full),
        args(args),
        above(args.columns.full),
        below(args.columns.full),
        boundary_above(args.target_columns),
        boundary_below(args.target_columns),
        void_above(args.target_columns),
        void_below(args.target_columns) {}

  void make(int64_t n, int64_t y) {
    const float* maps = args.predicted + n * args.rows.size * args.columns.size;
    stretch(args.columns, maps + args.rows.before[y] * args.columns.size, above.data());
    stretch(args.columns, maps + args.rows.after[y] * args.columns.size, below.data());
    const float* target = args.target + n * args.target_rows.size * args.target_columns.size;
    const float* first = target + args.target_rows.before[y] * args.target_columns.size;
    const float* second = target + args.target_rows.after[y] * args.target_columns.size;
    const float* first_boundary = boundary_above(args.target_columns, first, 1);
    const float* second_boundary = boundary_below(args.target_columns, second, 1);
    const float* first_void = void_above(args.target_columns, first, VOID);
    const float* second_void = void_below(args.target_columns, second, VOID);
    const float share = args.rows.share[y], target_share = args.target_rows.share[y];
    for (int64_t x = 0; x < args.columns.full; ++x) {
      const bool clean = lerp(first_void[x], second_void[x], target_share) < VOID_SHARE;
      predicted[x] = clean ? lerp(above[x], below[x], share) : 0;
      boundary[x] = clean ? lerp(first_boundary[x], second_boundary[x], target_share) : 0;
      valid[x] = clean;
    }
  }

 private:
  const Forward& args;
  std::vector<float> above, below;  // [width], the prediction's two rows
  TargetRow boundary_above, boundary_below, void_above, void_below;
};

// Computes the rows [begin, end) of all resized maps, and cuts them.
inline void make_rows(const Forward& args, int64_t begin, int64_t end) {
  const int64_t height = args.rows.full, tile = args.grid.tile;
  Resized resized(args);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / height, y = row % height;
    resized.make(n, y);
    for (int64_t column = 0; column < args.grid.columns; ++column) {
      const int64_t x = column * tile, start = column * tile * tile;
      std::copy_n(resized.predicted.data() + x, tile, args.grid.row(args.predicted_tiles, n, height, y) + start);
      std::copy_n(resized.boundary.data() + x, tile, args.grid.row(args.true_tiles, n, height, y) + start);
      std::copy_n(resized.valid.data() + x, tile, args.grid.row(args.valid, n, height, y) + start);
    }
  }
}

// Adds the cells [begin, end) of a parity to the gradient (see for_cells).
inline void add_cells(const Backward& args, int64_t begin, int64_t end, int64_t parity) {
  const int64_t height = args.rows.full, width = args.columns.full, tile = args.grid.tile;
  std::vector<float> grad_first(width), grad_second(width);  // of the prediction's two rows, at full width
  for (int64_t i = begin; i < end; ++i) {
    const auto [n, y, below, top, bottom, mixed] = resize::SIMD_TARGET::cell(args.rows, i, parity);
    std::fill(grad_first.begin(), grad_first.end(), 0.0f);
    std::fill(grad_second.begin(), grad_second.end(), 0.0f);
    for (int64_t row = top; row < bottom; ++row) {
      const float share = args.rows.share[row];
      for (int64_t column = 0; column < args.grid.columns; ++column) {
        const float* __restrict grad = args.grid.row(args.grad, n, height, row) + column * tile * tile;
        const uint8_t* __restrict valid = args.grid.row(args.valid, n, height, row) + column * tile * tile;
        float* __restrict first = grad_first.data() + column * tile;
        float* __restrict second = grad_second.data() + column * tile;
        for (int64_t x = 0; x < tile; ++x) {
          const float counted = valid[x] ? grad[x] : 0;
          first[x] += (1 - share) * counted;
          second[x] += share == 0 ? 0 : share * counted;  // NaN does not count there
        }
      }
    }
    float* grad_predicted = args.grad_predicted + n * args.rows.size * args.columns.size;
    add_adjoint(args.columns, grad_first.data(), grad_predicted + y * args.columns.size);
    add_adjoint(args.columns, grad_second.data(), grad_predicted + below * args.columns.size);
  }
}

}  // namespace extract_tiles::SIMD_TARGET
