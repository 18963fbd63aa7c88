// Rows of boundary maps, in plain loops that the compiler vectorizes. It is included once per instruction set.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#ifndef BOUNDARY_MAP_ROWS_CPU_H
#define BOUNDARY_MAP_ROWS_CPU_H

namespace boundary_map {

struct Arguments {
  const int64_t* labels;  // [N, H, W]
  uint8_t* boundary;      // [N, H, W]
  int64_t height, width, ignore_index;
  std::vector<std::pair<int64_t, int64_t>> disk;  // (dy, dx) of each neighbour
};

}  // namespace boundary_map

#endif

namespace boundary_map::SIMD_TARGET {

// Computes the rows [begin, end) of all maps.
inline void make_rows(const Arguments& args, int64_t begin, int64_t end) {
  std::vector<int64_t> row_of_differences(args.width);  // as wide as labels: a comparison is one instruction
  int64_t* __restrict differs = row_of_differences.data();
  const int64_t width = args.width, ignore_index = args.ignore_index;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t y = row % args.height;
    const int64_t* __restrict labels = args.labels + row * width;
    std::fill_n(differs, width, 0);
    for (const auto& [dy, dx] : args.disk) {
      if (y + dy < 0 || y + dy >= args.height) continue;
      const int64_t* others = labels + dy * width + dx;
      const int64_t left = std::max<int64_t>(0, -dx), right = std::min(width, width - dx);
      for (int64_t x = left; x < right; ++x)
        differs[x] |= (labels[x] != others[x]) & (others[x] != ignore_index) ? 1 : 0;
    }
    uint8_t* __restrict boundary = args.boundary + row * width;
    for (int64_t x = 0; x < width; ++x)
      boundary[x] = labels[x] == ignore_index ? 255 : static_cast<uint8_t>(differs[x]);
  }
}

}  // namespace boundary_map::SIMD_TARGET
