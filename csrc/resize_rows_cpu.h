// Rows of resized maps, for one instruction set: written for the compiler's vectoriser.

namespace resize::SIMD_TARGET {

// Where the second has no share, an infinite number in it must not count.
inline float lerp(float first, float second, float share) {
  return share == 0 ? first : (1 - share) * first + share * second;
}

// A row of `size` pixels to all positions, and the adjoint.
inline void stretch(const Axis& columns, const float* __restrict row, float* __restrict full) {
  if (columns.full == columns.size) return void(std::copy_n(row, columns.full, full));
  for (int64_t x = 0; x < columns.full; ++x)
    full[x] = lerp(row[columns.before[x]], row[columns.after[x]], columns.share[x]);
}

inline void add_adjoint(const Axis& columns, const float* __restrict full, float* __restrict row) {
  for (int64_t tap = 0; tap < columns.taps; ++tap) {
    const int32_t* position = columns.position.data() + tap * columns.size;
    const float* weight = columns.weight.data() + tap * columns.size;
    for (int64_t x = 0; x < columns.size; ++x) row[x] += weight[x] * full[position[x]];
  }
}

struct Cell {
  int64_t n, y, below, top, bottom;  // image, its two rows of pixels, the rows of positions between them
  bool mixed;                        // whether the second row has a share in any
};

// The i-th cell of one parity, see for_cells.
inline Cell cell(const Axis& rows, int64_t i, int64_t parity) {
  const int64_t count = (rows.size + 1 - parity) / 2, y = 2 * (i % count) + parity;
  Cell cell = {i / count, y, std::min(y + 1, rows.size - 1), rows.cell[y], rows.cell[y + 1], false};
  for (int64_t row = cell.top; row < cell.bottom; ++row) cell.mixed |= rows.share[row] != 0;
  return cell;
}

}  // namespace resize::SIMD_TARGET
