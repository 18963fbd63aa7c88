// The default network's convolutions as products of a matrix: where they read, and their weights in the order in which
// align_rows_cpu.h walks them. Made once a call, for all tiles.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace align {

constexpr int64_t CELL = 8, REACH = 3, SPAN = 2 * REACH + 1, GROUPS = 2, UNSHUFFLED = 4;
constexpr int64_t FIRST = 10, SECOND = 24, FEATURES = 16, HIDDEN = 26, LAST = 16, OUTPUTS = 5;  // channels
constexpr int64_t OFFSETS = GROUPS * SPAN * SPAN, NORM_GROUPS = 4;
constexpr float EPS = 0.01f, CELLS_PER_UNIT = 3;
constexpr int64_t LINE = 16;  // rows of channels, and of pixels, are of a multiple of so many floats

constexpr int64_t padded(int64_t count) { return (count + LINE - 1) / LINE * LINE; }

// A pixel's sums over what lies `offsets` from it: of as many channels as `weights (offsets, padded(channels))` has.
struct Layer {
  int64_t channels;
  std::vector<int64_t> offsets;
  std::vector<float> weights, bias;

  explicit Layer(int64_t channels) : channels(channels), bias(padded(channels)) {}

  // `of(channel)` is the weight.
  template <class Of> void add(int64_t offset, Of of) {
    offsets.push_back(offset);
    weights.resize(weights.size() + padded(channels));
    float* row = weights.data() + weights.size() - padded(channels);
    for (int64_t channel = 0; channel < channels; ++channel) row[channel] = of(channel);
  }
};

struct Kernel {  // of a convolution, (outputs, inputs, edge, edge)
  const float* weights;
  int64_t outputs, inputs, edge;

  float operator()(int64_t output, int64_t input, int64_t y, int64_t x) const {
    return weights[((output * inputs + input) * edge + y) * edge + x];
  }
  // `offset(input, y, x)`.
  template <class Offset> Layer layer(const float* bias, Offset offset) const {
    Layer layer(outputs);
    for (int64_t i = 0; i < outputs; ++i) layer.bias[i] = bias[i];
    for (int64_t y = 0; y < edge; ++y)
      for (int64_t x = 0; x < edge; ++x)
        for (int64_t input = 0; input < inputs; ++input)
          layer.add(offset(input, y, x), [&](int64_t output) { return (*this)(output, input, y, x); });
    return layer;
  }
  // From gradients by outputs to those by inputs, of the taps (y, x) from `first` on in steps of `step`.
  template <class Offset>
  Layer adjoint(Offset offset, std::pair<int64_t, int64_t> first = {0, 0}, int64_t step = 1) const {
    Layer layer(inputs);
    for (int64_t y = first.first; y < edge; y += step)
      for (int64_t x = first.second; x < edge; x += step)
        for (int64_t output = 0; output < outputs; ++output)
          layer.add(offset(output, y, x), [&](int64_t input) { return (*this)(output, input, y, x); });
    return layer;
  }
};

// Maps lie pixel by pixel, each a line of channels, with a frame as wide as the next layer reads; what is correlated
// lies channel by channel.
struct Network {
  int64_t tile, halves, cells;  // edge of the tile in pixels, of the first layer's map and of the second's
  int64_t cell_row;             // of a row of cells that lies channel by channel
  Layer conv1, conv2, conv3;    // of the features
  Layer measure1, measure2, measure3;
  Layer conv1_adjoint, conv2_adjoint[2][2], conv3_adjoint;  // the second by parity of y and x
  Layer measure2_adjoint, measure3_adjoint;
  const float *scale, *shift;          // of the features
  std::vector<float> measure1_inputs;  // (OFFSETS + FEATURES, HIDDEN)
  float prior[8];                      // precision
  std::vector<float> x, y;             // velocity (cells^2, 8)

  int64_t tile_row() const { return tile + 2 * UNSHUFFLED; }
  float unit() const { return 2 * CELLS_PER_UNIT * CELL / tile; }  // in half tiles

  // `w`: of SHAPES in reference/align.py, and the velocity.
  Network(int64_t tile, const std::vector<const float*>& w) : Network(tile, w, Kernels(w)) {}

 private:
  struct Kernels {
    Kernel conv1, conv2, conv3, measure1, measure2, measure3;
    explicit Kernels(const std::vector<const float*>& w)
        : conv1{w[0], FIRST, UNSHUFFLED * UNSHUFFLED, 3},
          conv2{w[2], SECOND, FIRST, 3},
          conv3{w[4], FEATURES, SECOND, 1},
          measure1{w[8], HIDDEN, OFFSETS + FEATURES, 1},
          measure2{w[10], LAST, HIDDEN, 3},
          measure3{w[12], OUTPUTS, LAST, 1} {}
  };

  Network(int64_t tile, const std::vector<const float*>& w, const Kernels& k)
      : tile(tile),
        halves(tile / UNSHUFFLED),
        cells(tile / CELL),
        cell_row(padded(cells)),
        conv1(k.conv1.layer(w[1],
                            [&](int64_t i, int64_t y, int64_t x) {
                              return (UNSHUFFLED * y + i / UNSHUFFLED) * tile_row() + UNSHUFFLED * x + i % UNSHUFFLED;
                            })),
        conv2(k.conv2.layer(w[3], [&](int64_t i, int64_t y, int64_t x) { return at(y, x, halves + 2, FIRST) + i; })),
        conv3(k.conv3.layer(w[5], [](int64_t i, int64_t, int64_t) { return i; })),
        measure1(k.measure1.layer(w[9], [&](int64_t i, int64_t, int64_t) { return i * cell_row; })),
        measure2(
            k.measure2.layer(w[11], [&](int64_t i, int64_t y, int64_t x) { return at(y, x, cells + 2, HIDDEN) + i; })),
        measure3(k.measure3.layer(w[13], [](int64_t i, int64_t, int64_t) { return i; })),
        conv1_adjoint(
            k.conv1.adjoint([&](int64_t o, int64_t y, int64_t x) { return at(2 - y, 2 - x, halves + 4, FIRST) + o; })),
        conv2_adjoint{{of_parity(k.conv2, 0, 0), of_parity(k.conv2, 0, 1)},
                      {of_parity(k.conv2, 1, 0), of_parity(k.conv2, 1, 1)}},
        conv3_adjoint(k.conv3.adjoint([](int64_t o, int64_t, int64_t) { return o; })),
        measure2_adjoint(
            k.measure2.adjoint([&](int64_t o, int64_t y, int64_t x) { return at(2 - y, 2 - x, cells + 2, LAST) + o; })),
        measure3_adjoint(k.measure3.adjoint([](int64_t o, int64_t, int64_t) { return o; })),
        scale(w[6]),
        shift(w[7]),
        measure1_inputs((OFFSETS + FEATURES) * HIDDEN),
        x(8 * cells * cells),
        y(8 * cells * cells) {
    for (int64_t input = 0; input < OFFSETS + FEATURES; ++input)
      for (int64_t output = 0; output < HIDDEN; ++output)
        measure1_inputs[input * HIDDEN + output] = k.measure1(output, input, 0, 0);
    for (int64_t i = 0; i < 8; ++i) prior[i] = std::exp(w[14][i]);
    for (int64_t i = 0; i < 8 * cells * cells; ++i) x[i] = w[15][2 * i], y[i] = w[15][2 * i + 1];
  }

  static int64_t at(int64_t y, int64_t x, int64_t width, int64_t channels) {
    return (y * width + x) * padded(channels);
  }

  // An even row of the framed map was read by the second layer's row of half its number, through the first of its
  // three taps, and by the one before, through the last; an odd row through the middle one alone.
  Layer of_parity(const Kernel& conv2, int64_t odd_y, int64_t odd_x) const {
    return conv2.adjoint(
        [&](int64_t o, int64_t y, int64_t x) { return at(1 - y / 2, 1 - x / 2, cells + 2, SECOND) + o; },
        {odd_y, odd_x}, 2);
  }
};

}  // namespace align
