// Rows of resized maps, in plain loops that the compiler vectorizes. It is included once per instruction set.

#include <algorithm>
#include <cstdint>

#include "common/resize.h"

namespace resize::SIMD_TARGET {

// Where the share is 0, an infinite second number must not count.
inline float lerp(float first, float second, float share) {
  return share == 0 ? first : (1 - share) * first + share * second;
}

// Resizes a row of pixels.
inline void stretch(const Axis& columns, const float* __restrict row,  // [size]
                    float* __restrict full) {                          // [full]
  if (columns.full == columns.size) return void(std::copy_n(row, columns.full, full));
  for (int64_t x = 0; x < columns.full; ++x)
    full[x] = lerp(row[columns.before[x]], row[columns.after[x]], columns.share[x]);
}

// Adds the gradient of a resized row to that of its pixels. NaN does not count where the weight is 0.
inline void add_adjoint(const Axis& columns, const float* __restrict grad_full,  // [full]
                        float* __restrict grad_row) {                            // [size]
  for (int64_t tap = 0; tap < columns.taps; ++tap) {
    const int32_t* position = columns.position.data() + tap * columns.size;
    const float* weight = columns.weight.data() + tap * columns.size;
    for (int64_t x = 0; x < columns.size; ++x) grad_row[x] += weight[x] == 0 ? 0 : weight[x] * grad_full[position[x]];
  }
}

struct Cell {
  int64_t n, y, below;  // the image, and its two rows of pixels
  int64_t top, bottom;  // the rows of positions between them
  bool mixed;           // whether any of these uses the second row
};

// Returns the i-th cell of one parity (see for_cells).
inline Cell cell(const Axis& rows, int64_t i, int64_t parity) {
  const int64_t count = (rows.size + 1 - parity) / 2, y = 2 * (i % count) + parity;
  Cell cell = {i / count, y, std::min(y + 1, rows.size - 1), rows.cell[y], rows.cell[y + 1], false};
  for (int64_t row = cell.top; row < cell.bottom; ++row) cell.mixed |= rows.share[row] != 0;
  return cell;
}

}  // namespace resize::SIMD_TARGET
