// Rows of resized maps, in plain loops that the compiler vectorizes. It is included once per instruction set.

#include <algorithm>
#include <cstdint>
#include <vector>

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

// Rows of C maps at full width. The last one and the one before it are kept.
class Stretched {
 public:
  Stretched(const Axis& columns,
            const float* maps,  // [C, height, size]
            int64_t channels, int64_t height)
      : columns(columns), maps(maps), channels(channels), height(height) {
    for (auto& row : rows) row.resize(channels * columns.full);
  }

  // Returns row y, [C, full].
  const float* row(int64_t y) {
    float* full = rows[y % 2].data();
    for (int64_t c = 0; held[y % 2] != y && c < channels; ++c)
      stretch(columns, maps + (c * height + y) * columns.size, full + c * columns.full);
    held[y % 2] = y;
    return full;
  }

 private:
  const Axis& columns;
  const float* const maps;
  const int64_t channels, height;
  int64_t held[2] = {-1, -1};
  std::vector<float> rows[2];
};

// Computes the rows [begin, end) of the gradients of N x C maps. `start(n, first)` returns a sweep of image n from row
// `first` on, at full resolution. `send_back(sweep, row, above, below)` adds the gradient of a row to those of the two
// rows of pixels that it lies between, [C, full].
template <class Start, class SendBack> void gather_rows(const Axis& rows, const Axis& columns, int64_t channels,
                                                        float* grad,  // [N, C, size, size], zero
                                                        int64_t begin, int64_t end, Start start, SendBack send_back) {
  std::vector<float> full[2];  // [C, full], gradients of the rows that the current cell lies between
  for (auto& row : full) row.resize(channels * columns.full);
  for (int64_t i = begin; i < end;) {
    const int64_t n = i / rows.size, first = i - n * rows.size, last = std::min(end - n * rows.size, rows.size);
    int64_t cell = std::max<int64_t>(first - 1, 0);
    auto sweep = start(n, rows.cell[cell]);
    for (auto& row : full) std::fill(row.begin(), row.end(), 0.0f);
    for (; cell < last; ++cell) {
      std::vector<float>&above = full[cell % 2], &below = full[(cell + 1) % 2];
      for (int64_t y = rows.cell[cell]; y < rows.cell[cell + 1]; ++y) send_back(sweep, y, above.data(), below.data());
      for (int64_t c = 0; cell >= first && c < channels; ++c)
        add_adjoint(columns, above.data() + c * columns.full,
                    grad + ((n * channels + c) * rows.size + cell) * columns.size);
      std::fill(above.begin(), above.end(), 0.0f);
    }
    i = n * rows.size + last;
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
