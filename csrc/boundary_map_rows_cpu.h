// Rows of boundary maps, for one instruction set: written for the compiler's vectoriser.

namespace boundary_map::SIMD_TARGET {

inline void rows(const Arguments& of, int64_t begin, int64_t end) {
  std::vector<int64_t> row_of_differences(of.width);  // as wide as labels: a comparison is one instruction
  int64_t* __restrict differs = row_of_differences.data();
  const int64_t width = of.width, ignore_index = of.ignore_index;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t y = row % of.height;
    const int64_t* __restrict labels = of.labels + row * width;
    std::fill_n(differs, width, 0);
    for (const auto& [dy, dx] : of.disk) {
      if (y + dy < 0 || y + dy >= of.height) continue;
      const int64_t* others = labels + dy * width + dx;
      const int64_t from = std::max<int64_t>(0, -dx), to = std::min(width, width - dx);
      for (int64_t x = from; x < to; ++x) differs[x] |= (labels[x] != others[x]) & (others[x] != ignore_index) ? 1 : 0;
    }
    uint8_t* __restrict boundary = of.boundary + row * width;
    for (int64_t x = 0; x < width; ++x)
      boundary[x] = labels[x] == ignore_index ? 255 : static_cast<uint8_t>(differs[x]);
  }
}

}  // namespace boundary_map::SIMD_TARGET
