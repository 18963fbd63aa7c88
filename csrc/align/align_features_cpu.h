// The features of a tile, and the gradient by the tile. It is included once per instruction set.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "align/align_product_cpu.h"

namespace align::SIMD_TARGET {

constexpr int64_t LINE1 = padded(FIRST), LINE2 = padded(SECOND);  // how many numbers the channels of a pixel take

// Maps of cells, stored channel by channel, with a frame of zeros.
struct Maps {
  int64_t line, plane;
  std::vector<float> numbers;  // [channels, cells + 2 REACH, line]

  Maps(const Network& net, int64_t channels)
      : line(padded(net.cells) + LINE), plane((net.cells + 2 * REACH) * line), numbers(channels * plane) {}
  float* row(int64_t channel, int64_t y) { return numbers.data() + channel * plane + (y + REACH) * line + REACH; }
  const float* row(int64_t channel, int64_t y) const { return const_cast<Maps*>(this)->row(channel, y); }
};

// The features, and the intermediate values that backward needs.
struct Features {
  std::vector<float> before1;        // [halves, halves, LINE1], the first layer before its activation
  std::vector<float> before2;        // [cells, cells, LINE2], the second one
  std::vector<float> before3;        // [cells, cells, FEATURES], the third one before it is normalized
  std::vector<float> mean, inverse;  // [NORM_GROUPS], inverse: 1 / standard deviation
  Maps maps;                         // the features

  explicit Features(const Network& net)
      : before1(net.halves * net.halves * LINE1),
        before2(net.cells * net.cells * LINE2),
        before3(net.cells * net.cells * FEATURES),
        mean(NORM_GROUPS),
        inverse(NORM_GROUPS),
        maps(net, FEATURES) {}
};

// Gives a map a border of one pixel, which repeats the outermost.
inline void frame(float* map,  // [edge + 2, edge + 2, line]
                  int64_t edge, int64_t line) {
  const int64_t row = (edge + 2) * line;
  for (int64_t y = 1; y <= edge; ++y) {
    std::copy_n(map + y * row + line, line, map + y * row);
    std::copy_n(map + y * row + edge * line, line, map + y * row + (edge + 1) * line);
  }
  std::copy_n(map + row, row, map);
  std::copy_n(map + edge * row, row, map + (edge + 1) * row);
}

// Adds the border's gradient to that of the outermost pixels.
inline void frame_backward(float* grad,  // [edge + 2, row]
                           int64_t edge, int64_t line, int64_t row) {
  const auto add = [&](int64_t source, int64_t count, int64_t result) {
    for (int64_t i = 0; i < count; ++i) grad[result + i] += grad[source + i];
  };
  add(0, (edge + 2) * line, row);
  add((edge + 1) * row, (edge + 2) * line, edge * row);
  for (int64_t y = 1; y <= edge; ++y) {
    add(y * row, line, y * row + line);
    add(y * row + (edge + 1) * line, line, y * row + edge * line);
  }
}

// Sums the values of all channels in one channel's group.
inline double group_sum(const double* channels,  // [FEATURES]
                        int64_t channel) {
  double sum = 0;
  for (int64_t c = 0; c < NORM_CHANNELS; ++c) sum += channels[channel / NORM_CHANNELS * NORM_CHANNELS + c];
  return sum;
}

class FeaturesForward {
 public:
  explicit FeaturesForward(const Network& net)
      : net(net),
        framed(net.tile_row() * net.tile_row()),
        halves((net.halves + 2) * (net.halves + 2) * LINE1),
        cells(net.cells * net.cells * LINE2) {}

  void operator()(const float* tile, Features& result) {  // tile: [tile, tile]
    const int64_t n = net.cells, m = net.halves;
    frame_blocks(tile);
    const Product<UNSHUFFLED> product1(net.conv1, LINE1);
    const Product<2 * LINE1> product2(net.conv2, LINE2);
    const Product<LINE2> product3(net.conv3, FEATURES);
    for (int64_t y = 0; y < m; ++y) {
      float* before = result.before1.data() + y * m * LINE1;
      product1(framed.data() + UNSHUFFLED * y * net.tile_row(), before, m);
      silu(before, m * LINE1, halves.data() + ((y + 1) * (m + 2) + 1) * LINE1);
    }
    frame(halves.data(), m, LINE1);
    for (int64_t y = 0; y < n; ++y) {
      const int64_t place = y * n * LINE2;
      product2(halves.data() + 2 * y * (m + 2) * LINE1, result.before2.data() + place, n);
      silu(result.before2.data() + place, n * LINE2, cells.data() + place);
      product3(cells.data() + place, result.before3.data() + y * n * FEATURES, n);
    }
    normalize(result);
  }

 private:
  // Gives the tile a border of one block, which repeats the outermost.
  void frame_blocks(const float* tile) {  // [tile, tile]
    const int64_t row = net.tile_row(), edge = net.tile;
    for (int64_t y = 0; y < row; ++y) {
      const int64_t inside = y < UNSHUFFLED ? y : y < edge + UNSHUFFLED ? y - UNSHUFFLED : y - 2 * UNSHUFFLED;
      const float* source = tile + inside * edge;
      float* result = framed.data() + y * row;
      std::copy_n(source, UNSHUFFLED, result);
      std::copy_n(source, edge, result + UNSHUFFLED);
      std::copy_n(source + edge - UNSHUFFLED, UNSHUFFLED, result + UNSHUFFLED + edge);
    }
  }

  void normalize(Features& result) const {
    const int64_t count = net.cells * net.cells;
    double sums[FEATURES] = {}, squares[FEATURES] = {};
    for (int64_t cell = 0; cell < count; ++cell)
      for (int64_t c = 0; c < FEATURES; ++c) sums[c] += result.before3[cell * FEATURES + c];
    double mean[FEATURES];
    for (int64_t c = 0; c < FEATURES; ++c) mean[c] = group_sum(sums, c) / (NORM_CHANNELS * count);
    for (int64_t cell = 0; cell < count; ++cell)
      for (int64_t c = 0; c < FEATURES; ++c) {
        const double centered = result.before3[cell * FEATURES + c] - mean[c];
        squares[c] += centered * centered;
      }
    for (int64_t c = 0; c < FEATURES; ++c) {
      const int64_t group = c / NORM_CHANNELS;
      const float center = result.mean[group] = static_cast<float>(mean[c]);
      const double deviation = std::sqrt(group_sum(squares, c) / (NORM_CHANNELS * count) + EPS);
      const float factor = (result.inverse[group] = static_cast<float>(1 / deviation)) * net.scale[c];
      for (int64_t y = 0; y < net.cells; ++y) {
        float* map = result.maps.row(c, y);
        const float* source = result.before3.data() + y * net.cells * FEATURES + c;
        for (int64_t x = 0; x < net.cells; ++x) map[x] = (source[x * FEATURES] - center) * factor + net.shift[c];
      }
    }
  }

  const Network& net;
  std::vector<float> framed;  // [tile_row, tile_row]
  std::vector<float> halves;  // [halves + 2, halves + 2, LINE1], framed
  std::vector<float> cells;   // [cells, cells, LINE2]
};

class FeaturesBackward {
 public:
  explicit FeaturesBackward(const Network& net)
      : net(net),
        grad_before3(net.cells * net.cells * FEATURES),
        grad_before2((net.cells + 2) * (net.cells + 2) * LINE2),
        grad_halves((net.halves + 2) * (net.halves + 2) * LINE1),
        grad_before1((net.halves + 4) * (net.halves + 4) * LINE1),
        grad_blocks((net.halves + 2) * (net.halves + 2) * BLOCK) {}

  void operator()(const Features& features, const Maps& grad_maps, float* grad_tile) {  // grad_tile: [tile, tile]
    normalize_backward(features, grad_maps);
    conv3_backward(features);
    conv2_backward(features);
    conv1_backward();
    shuffle(grad_tile);
  }

 private:
  // With n = (x - mean) inverse and g the gradient by n, the gradient by x is inverse (g - mean(g) - n mean(g n)),
  // because mean and deviation depend on x, too. Means are over a group's channels and all cells.
  void normalize_backward(const Features& features, const Maps& grad_maps) {
    float* grad = grad_before3.data();
    const int64_t n = net.cells;
    double sums[FEATURES] = {}, products[FEATURES] = {};
    for (int64_t c = 0; c < FEATURES; ++c)
      for (int64_t y = 0; y < n; ++y) {
        const float* grad_row = grad_maps.row(c, y);
        for (int64_t x = 0; x < n; ++x) {
          const int64_t place = (y * n + x) * FEATURES + c, group = c / NORM_CHANNELS;
          grad[place] = grad_row[x] * net.scale[c];
          sums[c] += grad[place];
          products[c] += grad[place] * (features.before3[place] - features.mean[group]) * features.inverse[group];
        }
      }
    float mean[FEATURES], slope[FEATURES];
    for (int64_t c = 0; c < FEATURES; ++c) {
      mean[c] = static_cast<float>(group_sum(sums, c) / (NORM_CHANNELS * n * n));
      slope[c] = static_cast<float>(group_sum(products, c) / (NORM_CHANNELS * n * n));
    }
    for (int64_t cell = 0; cell < n * n; ++cell)
      for (int64_t c = 0; c < FEATURES; ++c) {
        const int64_t place = cell * FEATURES + c, group = c / NORM_CHANNELS;
        const float normal = (features.before3[place] - features.mean[group]) * features.inverse[group];
        grad[place] = (grad[place] - mean[c] - normal * slope[c]) * features.inverse[group];
      }
  }

  void conv3_backward(const Features& features) {
    const int64_t n = net.cells;
    const Product<FEATURES> adjoint(net.conv3_adjoint, LINE2);
    for (int64_t y = 0; y < n; ++y) {
      float* result = grad_before2.data() + ((y + 1) * (n + 2) + 1) * LINE2;
      adjoint(grad_before3.data() + y * n * FEATURES, result, n);
      silu_backward(features.before2.data() + y * n * LINE2, n * LINE2, result);
    }
  }

  void conv2_backward(const Features& features) {
    const int64_t n = net.cells, m = net.halves, row = (m + 2) * LINE1;
    for (int64_t odd_y = 0; odd_y < 2; ++odd_y)
      for (int64_t odd_x = 0; odd_x < 2; ++odd_x) {
        const Product<LINE2> adjoint(net.conv2_adjoint[odd_y][odd_x], 2 * LINE1);
        for (int64_t y = 0; y <= n; ++y)
          adjoint(grad_before2.data() + y * (n + 2) * LINE2, grad_halves.data() + (2 * y + odd_y) * row + odd_x * LINE1,
                  n + 1);
      }
    frame_backward(grad_halves.data(), m, LINE1, row);
    for (int64_t y = 0; y < m; ++y) {
      float* result = grad_before1.data() + ((y + 2) * (m + 4) + 2) * LINE1;
      std::copy_n(grad_halves.data() + (y + 1) * row + LINE1, m * LINE1, result);
      silu_backward(features.before1.data() + y * m * LINE1, m * LINE1, result);
    }
  }

  void conv1_backward() {
    const int64_t m = net.halves;
    const Product<LINE1> adjoint(net.conv1_adjoint, BLOCK);
    for (int64_t y = 0; y < m + 2; ++y)
      adjoint(grad_before1.data() + y * (m + 4) * LINE1, grad_blocks.data() + y * (m + 2) * BLOCK, m + 2);
    frame_backward(grad_blocks.data(), m, BLOCK, (m + 2) * BLOCK);
  }

  // Puts the blocks' pixels, which are channels, where they lie in the tile.
  void shuffle(float* grad_tile) const {  // [tile, tile]
    const int64_t m = net.halves;
    for (int64_t y = 0; y < net.tile; ++y)
      for (int64_t x = 0; x < m; ++x)
        std::copy_n(grad_blocks.data() + ((y / UNSHUFFLED + 1) * (m + 2) + x + 1) * BLOCK + y % UNSHUFFLED * UNSHUFFLED,
                    UNSHUFFLED, grad_tile + y * net.tile + x * UNSHUFFLED);
  }

  const Network& net;
  std::vector<float> grad_before3;  // [cells, cells, FEATURES]
  std::vector<float> grad_before2;  // [cells + 2, cells + 2, LINE2], framed by zeros
  std::vector<float> grad_halves;   // [halves + 2, halves + 2, LINE1], framed
  std::vector<float> grad_before1;  // [halves + 4, halves + 4, LINE1], framed by zeros
  std::vector<float> grad_blocks;   // [halves + 2, halves + 2, BLOCK], framed
};

}  // namespace align::SIMD_TARGET
