// Correlates one group of channels after the other, in plain loops that the compiler vectorizes. Included once per
// instruction set.

#include <algorithm>
#include <cstdint>
#include <vector>

#ifndef LOCAL_CORRELATION_ROWS_CPU_H
#define LOCAL_CORRELATION_ROWS_CPU_H

namespace local_correlation {

struct Arguments {      // null: not asked for
  const float* first;   // [N * groups, C, h, w]
  const float* second;  // [N * groups, C, h, w]
  float* result;        // [N * groups, span, span, h, w]
  const float* grad;    // [N * groups, span, span, h, w]
  float* grad_first;    // [N * groups, C, h, w]
  float* grad_second;   // [N * groups, C, h, w]
  int64_t channels, height, width, reach;
};

}  // namespace local_correlation

#endif

namespace local_correlation::SIMD_TARGET {

// A group's maps with a border of zeros, so that every neighbour exists.
struct Padded {
  int64_t height, width, reach;
  std::vector<float> maps;  // [C, h + 2 reach, w + 2 reach]

  explicit Padded(const Arguments& args)
      : height(args.height + 2 * args.reach),
        width(args.width + 2 * args.reach),
        reach(args.reach),
        maps(args.channels * height * width) {}
  float* row(int64_t c, int64_t y) { return maps.data() + (c * height + y) * width; }
  // Calls visit(the row inside the border, where it lies in [C, h, w]) for each row.
  template <class Visit> void inner_rows(const Arguments& args, Visit visit) {
    for (int64_t c = 0; c < args.channels; ++c)
      for (int64_t y = 0; y < args.height; ++y) visit(row(c, y + reach) + reach, (c * args.height + y) * args.width);
  }
};

inline void add_product(const float* __restrict a,  // [count]
                        const float* __restrict b,  // [count]
                        int64_t count,
                        float* __restrict sum) {  // [count]
  for (int64_t x = 0; x < count; ++x) sum[x] += a[x] * b[x];
}

// Computes the groups [begin, end) of all images.
inline void correlate(const Arguments& args, int64_t begin, int64_t end) {
  const int64_t width = args.width, plane = args.height * width, span = 2 * args.reach + 1;
  Padded second(args);
  for (int64_t group = begin; group < end; ++group) {
    const float* first = args.first + group * args.channels * plane;
    second.inner_rows(args, [&](float* row, int64_t start) {
      std::copy_n(args.second + group * args.channels * plane + start, width, row);
    });
    for (int64_t dy = 0; dy < span; ++dy)
      for (int64_t dx = 0; dx < span; ++dx)
        for (int64_t y = 0; y < args.height; ++y) {
          float* __restrict result = args.result + ((group * span + dy) * span + dx) * plane + y * width;
          std::fill_n(result, width, 0.0f);
          for (int64_t c = 0; c < args.channels; ++c)
            add_product(first + c * plane + y * width, second.row(c, y + dy) + dx, width, result);
          for (int64_t x = 0; x < width; ++x) result[x] /= args.channels;
        }
  }
}

// result[d](p) = sum_c first[c](p) second[c](p + d) / C, so first[c](p) collects grad[d](p) second[c](p + d) / C of all
// d, and second[c](p + d) collects grad[d](p) first[c](p) / C.
inline void differentiate(const Arguments& args, int64_t begin, int64_t end) {
  const int64_t width = args.width, plane = args.height * width, span = 2 * args.reach + 1;
  Padded second(args), grad_second(args);
  for (int64_t group = begin; group < end; ++group) {
    const int64_t maps = group * args.channels * plane;
    second.inner_rows(args, [&](float* row, int64_t start) { std::copy_n(args.second + maps + start, width, row); });
    std::fill(grad_second.maps.begin(), grad_second.maps.end(), 0.0f);
    if (args.grad_first) std::fill_n(args.grad_first + maps, args.channels * plane, 0.0f);
    for (int64_t dy = 0; dy < span; ++dy)
      for (int64_t dx = 0; dx < span; ++dx)
        for (int64_t y = 0; y < args.height; ++y) {
          const float* grad = args.grad + ((group * span + dy) * span + dx) * plane + y * width;
          for (int64_t c = 0; c < args.channels; ++c) {
            const int64_t start = maps + c * plane + y * width;
            if (args.grad_first) add_product(grad, second.row(c, y + dy) + dx, width, args.grad_first + start);
            if (args.grad_second) add_product(grad, args.first + start, width, grad_second.row(c, y + dy) + dx);
          }
        }
    for (int64_t i = 0; args.grad_first && i < args.channels * plane; ++i) args.grad_first[maps + i] /= args.channels;
    if (args.grad_second)
      grad_second.inner_rows(args, [&](const float* row, int64_t start) {
        for (int64_t x = 0; x < width; ++x) args.grad_second[maps + start + x] = row[x] / args.channels;
      });
  }
}

}  // namespace local_correlation::SIMD_TARGET
