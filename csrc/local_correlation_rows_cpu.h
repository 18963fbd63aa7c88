// The maps of one group of channels of an image, for one instruction set: written for the compiler's vectoriser.

namespace local_correlation::SIMD_TARGET {

// A group's maps (C, h + 2 reach, w + 2 reach), so that every neighbour exists.
struct Padded {
  int64_t height, width, reach;
  std::vector<float> maps;

  explicit Padded(const Arguments& of)
      : height(of.height + 2 * of.reach),
        width(of.width + 2 * of.reach),
        reach(of.reach),
        maps(of.channels * height * width) {}
  float* row(int64_t c, int64_t y) { return maps.data() + (c * height + y) * width; }
  template <class Row> void inner_rows(const Arguments& of, Row row_of) {
    for (int64_t c = 0; c < of.channels; ++c)
      for (int64_t y = 0; y < of.height; ++y) row_of(row(c, y + reach) + reach, (c * of.height + y) * of.width);
  }
};

inline void add_product(const float* __restrict a, const float* __restrict b, int64_t count, float* __restrict sum) {
  for (int64_t x = 0; x < count; ++x) sum[x] += a[x] * b[x];
}

// Of the groups of all images from begin to end.
inline void correlate(const Arguments& of, int64_t begin, int64_t end) {
  const int64_t width = of.width, plane = of.height * width, span = 2 * of.reach + 1;
  Padded second(of);
  for (int64_t group = begin; group < end; ++group) {
    const float* first = of.first + group * of.channels * plane;
    second.inner_rows(
        of, [&](float* row, int64_t at) { std::copy_n(of.second + group * of.channels * plane + at, width, row); });
    for (int64_t dy = 0; dy < span; ++dy)
      for (int64_t dx = 0; dx < span; ++dx)
        for (int64_t y = 0; y < of.height; ++y) {
          float* __restrict result = of.result + ((group * span + dy) * span + dx) * plane + y * width;
          std::fill_n(result, width, 0.0f);
          for (int64_t c = 0; c < of.channels; ++c)
            add_product(first + c * plane + y * width, second.row(c, y + dy) + dx, width, result);
          for (int64_t x = 0; x < width; ++x) result[x] /= of.channels;
        }
  }
}

inline void differentiate(const Arguments& of, int64_t begin, int64_t end) {
  const int64_t width = of.width, plane = of.height * width, span = 2 * of.reach + 1;
  Padded second(of), by_second(of);
  for (int64_t group = begin; group < end; ++group) {
    const int64_t maps = group * of.channels * plane;
    second.inner_rows(of, [&](float* row, int64_t at) { std::copy_n(of.second + maps + at, width, row); });
    std::fill(by_second.maps.begin(), by_second.maps.end(), 0.0f);
    if (of.grad_first) std::fill_n(of.grad_first + maps, of.channels * plane, 0.0f);
    for (int64_t dy = 0; dy < span; ++dy)
      for (int64_t dx = 0; dx < span; ++dx)
        for (int64_t y = 0; y < of.height; ++y) {
          const float* grad = of.grad + ((group * span + dy) * span + dx) * plane + y * width;
          for (int64_t c = 0; c < of.channels; ++c) {
            const int64_t at = maps + c * plane + y * width;
            if (of.grad_first) add_product(grad, second.row(c, y + dy) + dx, width, of.grad_first + at);
            if (of.grad_second) add_product(grad, of.first + at, width, by_second.row(c, y + dy) + dx);
          }
        }
    for (int64_t i = 0; of.grad_first && i < of.channels * plane; ++i) of.grad_first[maps + i] /= of.channels;
    if (of.grad_second)
      by_second.inner_rows(of, [&](const float* row, int64_t at) {
        for (int64_t x = 0; x < width; ++x) of.grad_second[maps + at + x] = row[x] / of.channels;
      });
  }
}

}  // namespace local_correlation::SIMD_TARGET
