// The features of a tile, and the gradient by the tile. Included once per instruction set.

namespace align::SIMD_TARGET {

constexpr int64_t line1 = padded(FIRST), line2 = padded(SECOND);  // of a pixel's channels

// Channel by channel, framed by zeros.
struct Maps {
  int64_t line, plane;
  std::vector<float> numbers;

  Maps(const Network& of, int64_t channels)
      : line(padded(of.cells) + LINE), plane((of.cells + 2 * REACH) * line), numbers(channels * plane) {}
  float* row(int64_t channel, int64_t y) { return numbers.data() + channel * plane + (y + REACH) * line + REACH; }
  const float* row(int64_t channel, int64_t y) const { return const_cast<Maps*>(this)->row(channel, y); }
};

struct Features {
  std::vector<float> before1, before2, before3;  // each layer's result before what follows
  std::vector<float> mean, inverse;              // of the groups: mean, and inverse of the deviation
  Maps maps;                                     // the features

  explicit Features(const Network& of)
      : before1(of.halves * of.halves * padded(FIRST)),
        before2(of.cells * of.cells * padded(SECOND)),
        before3(of.cells * of.cells * FEATURES),
        mean(NORM_GROUPS),
        inverse(NORM_GROUPS),
        maps(of, FEATURES) {}
};

// A border of one pixel: it repeats the outermost.
inline void frame(float* map, int64_t edge, int64_t line) {
  const int64_t row = (edge + 2) * line;
  for (int64_t y = 1; y <= edge; ++y) {
    std::copy_n(map + y * row + line, line, map + y * row);
    std::copy_n(map + y * row + edge * line, line, map + y * row + (edge + 1) * line);
  }
  std::copy_n(map + row, row, map);
  std::copy_n(map + edge * row, row, map + (edge + 1) * row);
}

// What the border was given goes to the outermost.
inline void frame_backward(float* grad, int64_t edge, int64_t line, int64_t row) {
  const auto add = [&](int64_t from, int64_t count, int64_t to) {
    for (int64_t i = 0; i < count; ++i) grad[to + i] += grad[from + i];
  };
  add(0, (edge + 2) * line, row);
  add((edge + 1) * row, (edge + 2) * line, edge * row);
  for (int64_t y = 1; y <= edge; ++y) {
    add(y * row, line, y * row + line);
    add(y * row + (edge + 1) * line, line, y * row + edge * line);
  }
}

inline double group_sum(const double* channels, int64_t channel) {
  constexpr int64_t width = FEATURES / NORM_GROUPS;
  double sum = 0;
  for (int64_t c = 0; c < width; ++c) sum += channels[channel / width * width + c];
  return sum;
}

class FeaturesForward {
 public:
  explicit FeaturesForward(const Network& of)
      : of(of),
        framed(of.tile_row() * of.tile_row()),
        halves((of.halves + 2) * (of.halves + 2) * padded(FIRST)),
        cells(of.cells * of.cells * padded(SECOND)) {}

  void operator()(const float* tile, Features& to) {
    const int64_t n = of.cells, m = of.halves;
    frame_blocks(tile);
    const Product<UNSHUFFLED> product1(of.conv1, line1);
    const Product<2 * line1> product2(of.conv2, line2);
    const Product<line2> product3(of.conv3, FEATURES);
    for (int64_t y = 0; y < m; ++y) {
      float* before = to.before1.data() + y * m * line1;
      product1(framed.data() + UNSHUFFLED * y * of.tile_row(), before, m);
      silu(before, m * line1, halves.data() + ((y + 1) * (m + 2) + 1) * line1);
    }
    frame(halves.data(), m, line1);
    for (int64_t y = 0; y < n; ++y) {
      const int64_t at = y * n * line2;
      product2(halves.data() + 2 * y * (m + 2) * line1, to.before2.data() + at, n);
      silu(to.before2.data() + at, n * line2, cells.data() + at);
      product3(cells.data() + at, to.before3.data() + y * n * FEATURES, n);
    }
    normalize(to);
  }

 private:
  // A border of one block: it repeats the outermost.
  void frame_blocks(const float* tile) {
    const int64_t row = of.tile_row(), edge = of.tile;
    for (int64_t y = 0; y < row; ++y) {
      const int64_t inside = y < UNSHUFFLED ? y : y < edge + UNSHUFFLED ? y - UNSHUFFLED : y - 2 * UNSHUFFLED;
      const float* from = tile + inside * edge;
      float* to = framed.data() + y * row;
      std::copy_n(from, UNSHUFFLED, to);
      std::copy_n(from, edge, to + UNSHUFFLED);
      std::copy_n(from + edge - UNSHUFFLED, UNSHUFFLED, to + UNSHUFFLED + edge);
    }
  }

  void normalize(Features& to) const {
    const int64_t count = of.cells * of.cells, width = FEATURES / NORM_GROUPS;
    double sums[FEATURES] = {}, squares[FEATURES] = {};
    for (int64_t cell = 0; cell < count; ++cell)
      for (int64_t c = 0; c < FEATURES; ++c) sums[c] += to.before3[cell * FEATURES + c];
    double mean[FEATURES];
    for (int64_t c = 0; c < FEATURES; ++c) mean[c] = group_sum(sums, c) / (width * count);
    for (int64_t cell = 0; cell < count; ++cell)
      for (int64_t c = 0; c < FEATURES; ++c) {
        const double centred = to.before3[cell * FEATURES + c] - mean[c];
        squares[c] += centred * centred;
      }
    for (int64_t c = 0; c < FEATURES; ++c) {
      const float centre = to.mean[c / width] = static_cast<float>(mean[c]);
      const double deviation = std::sqrt(group_sum(squares, c) / (width * count) + EPS);
      const float factor = (to.inverse[c / width] = static_cast<float>(1 / deviation)) * of.scale[c];
      for (int64_t y = 0; y < of.cells; ++y) {
        float* map = to.maps.row(c, y);
        const float* from = to.before3.data() + y * of.cells * FEATURES + c;
        for (int64_t x = 0; x < of.cells; ++x) map[x] = (from[x * FEATURES] - centre) * factor + of.shift[c];
      }
    }
  }

  const Network& of;
  std::vector<float> framed, halves, cells;
};

class FeaturesBackward {
 public:
  explicit FeaturesBackward(const Network& of)
      : of(of),
        before3(of.cells * of.cells * FEATURES),
        before2((of.cells + 2) * (of.cells + 2) * padded(SECOND)),
        halves((of.halves + 2) * (of.halves + 2) * padded(FIRST)),
        framed((of.halves + 4) * (of.halves + 4) * padded(FIRST)),
        blocks((of.halves + 2) * (of.halves + 2) * UNSHUFFLED * UNSHUFFLED) {}

  // `by_maps`: the gradient by the features.
  void operator()(const Features& from, const Maps& by_maps, float* grad_tile) {
    const int64_t n = of.cells, m = of.halves;
    normalize_backward(from, by_maps);
    const Product<FEATURES> adjoint3(of.conv3_adjoint, line2);
    for (int64_t y = 0; y < n; ++y) {
      float* to = before2.data() + ((y + 1) * (n + 2) + 1) * line2;
      adjoint3(before3.data() + y * n * FEATURES, to, n);
      silu_backward(from.before2.data() + y * n * line2, n * line2, to);
    }
    const int64_t row1 = (m + 2) * line1;
    for (int64_t odd_y = 0; odd_y < 2; ++odd_y)
      for (int64_t odd_x = 0; odd_x < 2; ++odd_x) {
        const Product<line2> adjoint2(of.conv2_adjoint[odd_y][odd_x], 2 * line1);
        for (int64_t y = 0; y <= n; ++y)
          adjoint2(before2.data() + y * (n + 2) * line2, halves.data() + (2 * y + odd_y) * row1 + odd_x * line1, n + 1);
      }
    frame_backward(halves.data(), m, line1, row1);
    for (int64_t y = 0; y < m; ++y) {
      float* to = framed.data() + ((y + 2) * (m + 4) + 2) * line1;
      std::copy_n(halves.data() + (y + 1) * row1 + line1, m * line1, to);
      silu_backward(from.before1.data() + y * m * line1, m * line1, to);
    }
    constexpr int64_t block = UNSHUFFLED * UNSHUFFLED;
    const Product<line1> adjoint1(of.conv1_adjoint, block);
    for (int64_t y = 0; y < m + 2; ++y)
      adjoint1(framed.data() + y * (m + 4) * line1, blocks.data() + y * (m + 2) * block, m + 2);
    frame_backward(blocks.data(), m, block, (m + 2) * block);
    for (int64_t y = 0; y < of.tile; ++y)
      for (int64_t x = 0; x < m; ++x)
        std::copy_n(blocks.data() + ((y / UNSHUFFLED + 1) * (m + 2) + x + 1) * block + y % UNSHUFFLED * UNSHUFFLED,
                    UNSHUFFLED, grad_tile + y * of.tile + x * UNSHUFFLED);
  }

 private:
  // From the gradient by the normalised features to that by what they were before.
  void normalize_backward(const Features& from, const Maps& by_maps) {
    float* grad = before3.data();
    const int64_t n = of.cells, width = FEATURES / NORM_GROUPS;
    double sums[FEATURES] = {}, products[FEATURES] = {};
    for (int64_t c = 0; c < FEATURES; ++c)
      for (int64_t y = 0; y < n; ++y) {
        const float* by = by_maps.row(c, y);
        for (int64_t x = 0; x < n; ++x) {
          const int64_t at = (y * n + x) * FEATURES + c;
          grad[at] = by[x] * of.scale[c];
          sums[c] += grad[at];
          products[c] += grad[at] * (from.before3[at] - from.mean[c / width]) * from.inverse[c / width];
        }
      }
    float mean[FEATURES], slope[FEATURES];
    for (int64_t c = 0; c < FEATURES; ++c) {
      mean[c] = static_cast<float>(group_sum(sums, c) / (width * n * n));
      slope[c] = static_cast<float>(group_sum(products, c) / (width * n * n));
    }
    for (int64_t cell = 0; cell < n * n; ++cell)
      for (int64_t c = 0; c < FEATURES; ++c) {
        const int64_t at = cell * FEATURES + c;
        const float normal = (from.before3[at] - from.mean[c / width]) * from.inverse[c / width];
        grad[at] = (grad[at] - mean[c] - normal * slope[c]) * from.inverse[c / width];
      }
  }

  const Network& of;
  std::vector<float> before3, before2, halves, framed, blocks;  // gradients
};

}  // namespace align::SIMD_TARGET
