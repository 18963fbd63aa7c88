// Points flow along the motions of tiles, then each pixel reads the label at its displaced place; see
// inverseform_fast/reference/move_labels.py. It is included once per instruction set.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/fn.h"
#include "homography_exp_rows_cpu.h"

#ifndef MOVE_LABELS_ROWS_CPU_H
#define MOVE_LABELS_ROWS_CPU_H

namespace move_labels {

constexpr int64_t STEPS = 2, SIZE = 8;  // of the integration; coefficients of a homography

struct Arguments {
  const float* motion;    // [N, tiles_y, tiles_x, SIZE]
  float* points;          // [N, 2, rows, columns]: the displacement of each point, in pixels
  const int64_t* labels;  // [N, height, width]
  int64_t* moved;         // [N, height, width]
  float* displacement;    // [N, 2, height, width]
  int64_t tiles_y, tiles_x, rows, columns, height, width, ignore_index;
};

// Two neighbours along an axis, and the share of the second.
struct Pair {
  int64_t first, second;
  float share;
};

}  // namespace move_labels

#endif

namespace move_labels::SIMD_TARGET {

// The coordinate of a point: they go from the centre of the first pixel to that of the last one.
inline float along(int64_t index, int64_t count, int64_t pixels) {
  const float last = 1 - 1 / static_cast<float>(pixels);
  // By a division, since a product could be fused with a difference; a point that does not move would seem to, then.
  return last * static_cast<float>(2 * index - (count - 1)) / static_cast<float>(count - 1);
}

// The tiles whose centres lie before and after a coordinate.
inline Pair tiles_beside(float x, int64_t count) {
  float place = (x + 1) * (static_cast<float>(count + 1) / 2) - 1;            // the first centre is at 0
  place = std::min(place > 0 ? place : 0.0f, static_cast<float>(count - 1));  // one that is none (NaN) becomes 0
  const int64_t first = static_cast<int64_t>(place);
  return {first, std::min(first + 1, count - 1), place - static_cast<float>(first)};
}

// Moves a row of points, whose places are (x, y), by a step.
inline void step(const Arguments& args, const float* motion, float* x, float* y, std::vector<float>& coefficients,
                 std::vector<float>& theta) {
  for (int64_t i = 0; i < args.columns; ++i) {
    const Pair across = tiles_beside(x[i], args.tiles_x), down = tiles_beside(y[i], args.tiles_y);
    const float *upper = motion + down.first * args.tiles_x * SIZE, *lower = motion + down.second * args.tiles_x * SIZE;
    for (int64_t k = 0; k < SIZE; ++k) {
      const int64_t left = across.first * SIZE + k, right = across.second * SIZE + k;
      const float above = upper[left] + across.share * (upper[right] - upper[left]);
      const float below = lower[left] + across.share * (lower[right] - lower[left]);
      coefficients[SIZE * i + k] = (above + down.share * (below - above)) / STEPS;
    }
  }
  homography_exp::SIMD_TARGET::exponential(coefficients.data(), theta.data(), args.columns);
  for (int64_t i = 0; i < args.columns; ++i) {
    const float* t = theta.data() + 9 * i;
    const float depth = t[6] * x[i] + t[7] * y[i] + t[8], moved_x = (t[0] * x[i] + t[1] * y[i] + t[2]) / depth;
    y[i] = (t[3] * x[i] + t[4] * y[i] + t[5]) / depth, x[i] = moved_x;
  }
}

// Computes the displacement of the rows [begin, end) of points, of all images.
inline void flow_rows(const Arguments& args, int64_t begin, int64_t end) {
  std::vector<float> x(args.columns), y(args.columns), coefficients(args.columns * SIZE), theta(args.columns * 9);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / args.rows;
    const float start_y = along(row % args.rows, args.rows, args.height);
    for (int64_t i = 0; i < args.columns; ++i) x[i] = along(i, args.columns, args.width), y[i] = start_y;
    const float* motion = args.motion + n * args.tiles_y * args.tiles_x * SIZE;
    for (int64_t turn = 0; turn < STEPS; ++turn) step(args, motion, x.data(), y.data(), coefficients, theta);
    float* dx = args.points + (n * 2 * args.rows + row % args.rows) * args.columns;
    float* dy = dx + args.rows * args.columns;
    for (int64_t i = 0; i < args.columns; ++i) {
      dx[i] = (x[i] - along(i, args.columns, args.width)) * (static_cast<float>(args.width) / 2);
      dy[i] = (y[i] - start_y) * (static_cast<float>(args.height) / 2);
    }
  }
}

// The points before and after a pixel.
inline Pair points_beside(int64_t index, int64_t count, int64_t pixels) {
  const float place = static_cast<float>(index) *
                      (static_cast<float>(count - 1) / static_cast<float>(std::max<int64_t>(pixels - 1, 1)));
  const int64_t first = std::min(static_cast<int64_t>(place), count - 1);
  return {first, std::min(first + 1, count - 1), place - static_cast<float>(first)};
}

// Reads the labels of the rows [begin, end) of pixels, of all images.
inline void read_rows(const Arguments& args, int64_t begin, int64_t end) {
  const int64_t width = args.width, columns = args.columns;
  std::vector<Pair> across(width);
  for (int64_t x = 0; x < width; ++x) across[x] = points_beside(x, columns, width);
  std::vector<float> line(columns);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / args.height, y = row % args.height;
    const Pair down = points_beside(y, args.rows, args.height);
    float* displaced[2];  // along x and along y
    for (int64_t axis = 0; axis < 2; ++axis) {
      const float* points = args.points + (n * 2 + axis) * args.rows * columns;
      const float *upper = points + down.first * columns, *lower = points + down.second * columns;
      for (int64_t i = 0; i < columns; ++i) line[i] = upper[i] * (1 - down.share) + lower[i] * down.share;
      displaced[axis] = args.displacement + ((n * 2 + axis) * args.height + y) * width;
      for (int64_t x = 0; x < width; ++x)
        displaced[axis][x] = line[across[x].first] * (1 - across[x].share) + line[across[x].second] * across[x].share;
    }
    const int64_t* labels = args.labels + n * args.height * width;
    int64_t* moved = args.moved + row * width;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t from_x = x + static_cast<int64_t>(std::floor(displaced[0][x] + 0.5f));
      const int64_t from_y = y + static_cast<int64_t>(std::floor(displaced[1][x] + 0.5f));
      const bool inside = from_x >= 0 && from_x < width && from_y >= 0 && from_y < args.height;
      moved[x] = inside ? labels[from_y * width + from_x] : args.ignore_index;
    }
  }
}

}  // namespace move_labels::SIMD_TARGET
