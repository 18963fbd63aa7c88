// The default network: its sizes, and its convolutions as sums of products. A convolution is a list of the places that
// it reads, with their weights in the order in which align_product_cpu.h walks them. It is made once a call, for all
// tiles.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace align {

// The network's sizes, by their names in inverseform_fast/reference/align.py. All others are derived from these.
constexpr int64_t CELL = 8;                        // the edge of a cell in pixels
constexpr int64_t UNSHUFFLED = 4;                  // the edge of a block, whose pixels become channels
constexpr int64_t EDGE = 3;                        // the edge of the kernels that see neighbours
constexpr int64_t FIRST = 10, SECOND = 24;         // channels of the features' layers
constexpr int64_t FEATURES = 16, NORM_GROUPS = 4;  // channels, and the groups that are normalized
constexpr int64_t REACH = 3, GROUPS = 2;           // how far the correlation looks, in how many groups of channels
constexpr int64_t HIDDEN = 26, LAST = 16;          // channels of the measurement's layers
constexpr int64_t OUTPUTS = 5;                     // what is measured of a cell: displacement x, y; xx, yx, yy of L
constexpr int COEFFICIENTS = 8;                    // coefficients of a homography
constexpr float EPS = 0.01f;                       // added to the features' variances
constexpr float CELLS_PER_UNIT = 3;                // how many cells a displacement of one is

constexpr int64_t BLOCK = UNSHUFFLED * UNSHUFFLED, TAPS = EDGE * EDGE;
constexpr int64_t SPAN = 2 * REACH + 1, OFFSETS = GROUPS * SPAN * SPAN, MEASURED = OFFSETS + FEATURES;
constexpr int64_t GROUP_CHANNELS = FEATURES / GROUPS, NORM_CHANNELS = FEATURES / NORM_GROUPS;
static_assert(CELL == 2 * UNSHUFFLED, "the second convolution has stride 2");
static_assert(EDGE == 3, "maps are framed by one pixel");
static_assert(FEATURES % GROUPS == 0 && FEATURES % NORM_GROUPS == 0);

constexpr int64_t LINE = 16;  // rows of channels, and of pixels, are as long as a multiple of this

constexpr int64_t padded(int64_t count) { return (count + LINE - 1) / LINE * LINE; }

// The weights, in the order in which inverseform_fast/reference/align.py has them.
enum Weight {
  CONV1,
  CONV1_BIAS,
  CONV2,
  CONV2_BIAS,
  CONV3,
  CONV3_BIAS,
  SCALE,
  SHIFT,
  MEASURE1,
  MEASURE1_BIAS,
  MEASURE2,
  MEASURE2_BIAS,
  MEASURE3,
  MEASURE3_BIAS,
  PRIOR,
  VELOCITY
};

// Returns how many numbers each of the weights has, for a tile of cells x cells.
inline std::vector<int64_t> weight_sizes(int64_t cells) {
  return {FIRST * BLOCK * TAPS,
          FIRST,
          SECOND * FIRST * TAPS,
          SECOND,
          FEATURES * SECOND,
          FEATURES,
          FEATURES,
          FEATURES,
          HIDDEN * MEASURED,
          HIDDEN,
          LAST * HIDDEN * TAPS,
          LAST,
          OUTPUTS * LAST,
          OUTPUTS,
          COEFFICIENTS,
          cells * cells * COEFFICIENTS * 2};
}

// Each channel of a pixel is a bias plus the weighted sum of the numbers that lie `offsets` away from the pixel.
struct Layer {
  int64_t channels;
  std::vector<int64_t> offsets;
  std::vector<float> weights;  // [offsets, padded(channels)]
  std::vector<float> bias;     // [padded(channels)]

  explicit Layer(int64_t channels) : channels(channels), bias(padded(channels)) {}

  // Adds a term: the number that lies `offset` away, times weight(channel).
  template <class F> void add(int64_t offset, F weight) {
    offsets.push_back(offset);
    weights.resize(weights.size() + padded(channels));
    float* row = weights.data() + weights.size() - padded(channels);
    for (int64_t channel = 0; channel < channels; ++channel) row[channel] = weight(channel);
  }
};

// The kernel of a convolution.
struct Kernel {
  const float* weights;  // [outputs, inputs, edge, edge]
  int64_t outputs, inputs, edge;

  float operator()(int64_t output, int64_t input, int64_t y, int64_t x) const {
    return weights[((output * inputs + input) * edge + y) * edge + x];
  }
  // Returns the convolution, where offset(input, y, x) says how far away each tap reads.
  template <class F> Layer layer(const float* bias, F offset) const {  // bias: [outputs]
    Layer layer(outputs);
    for (int64_t i = 0; i < outputs; ++i) layer.bias[i] = bias[i];
    for (int64_t y = 0; y < edge; ++y)
      for (int64_t x = 0; x < edge; ++x)
        for (int64_t input = 0; input < inputs; ++input)
          layer.add(offset(input, y, x), [&](int64_t output) { return (*this)(output, input, y, x); });
    return layer;
  }
  // Returns the adjoint, which computes the inputs' gradients from the outputs', for the taps (y, x) from `first` on
  // in steps of `step`.
  template <class F> Layer adjoint(F offset, std::pair<int64_t, int64_t> first = {0, 0}, int64_t step = 1) const {
    Layer layer(inputs);
    for (int64_t y = first.first; y < edge; y += step)
      for (int64_t x = first.second; x < edge; x += step)
        for (int64_t output = 0; output < outputs; ++output)
          layer.add(offset(output, y, x), [&](int64_t input) { return (*this)(output, input, y, x); });
    return layer;
  }
};

// Maps are stored pixel by pixel, each pixel a line of channels, with a frame as wide as the next layer reads. Maps
// that are correlated are stored channel by channel.
struct Network {
  int64_t tile, halves, cells;  // the edge of the tile in pixels, of the first layer's map and of the second's
  int64_t cell_row;             // the length of a row of cells that lies channel by channel
  Layer conv1, conv2, conv3;    // make the features
  Layer measure1, measure2, measure3;
  Layer conv1_adjoint, conv2_adjoint[2][2], conv3_adjoint;  // the second by parity of y and x
  Layer measure2_adjoint, measure3_adjoint;
  const float *scale, *shift;          // [FEATURES], of the normalization
  std::vector<float> measure1_inputs;  // [MEASURED, HIDDEN], the transposed weights of measure1
  float prior[COEFFICIENTS];           // precision
  std::vector<float> x, y;             // [cells^2, COEFFICIENTS], each cell's velocity

  int64_t tile_row() const { return tile + 2 * UNSHUFFLED; }
  float unit() const { return 2 * CELLS_PER_UNIT * CELL / tile; }  // how many half tiles a displacement of one is

  Network(int64_t tile, const std::vector<const float*>& weights) : Network(tile, weights, Kernels(weights)) {}

 private:
  struct Kernels {
    Kernel conv1, conv2, conv3, measure1, measure2, measure3;
    explicit Kernels(const std::vector<const float*>& w)
        : conv1{w[CONV1], FIRST, BLOCK, EDGE},
          conv2{w[CONV2], SECOND, FIRST, EDGE},
          conv3{w[CONV3], FEATURES, SECOND, 1},
          measure1{w[MEASURE1], HIDDEN, MEASURED, 1},
          measure2{w[MEASURE2], LAST, HIDDEN, EDGE},
          measure3{w[MEASURE3], OUTPUTS, LAST, 1} {}
  };

  Network(int64_t tile, const std::vector<const float*>& w, const Kernels& k)
      : tile(tile),
        halves(tile / UNSHUFFLED),
        cells(tile / CELL),
        cell_row(padded(cells)),
        conv1(k.conv1.layer(w[CONV1_BIAS],
                            [&](int64_t i, int64_t y, int64_t x) {
                              return (UNSHUFFLED * y + i / UNSHUFFLED) * tile_row() + UNSHUFFLED * x + i % UNSHUFFLED;
                            })),
        conv2(k.conv2.layer(w[CONV2_BIAS],
                            [&](int64_t i, int64_t y, int64_t x) { return offset(y, x, halves + 2, FIRST) + i; })),
        conv3(k.conv3.layer(w[CONV3_BIAS], [](int64_t i, int64_t, int64_t) { return i; })),
        measure1(k.measure1.layer(w[MEASURE1_BIAS], [&](int64_t i, int64_t, int64_t) { return i * cell_row; })),
        measure2(k.measure2.layer(
            w[MEASURE2_BIAS], [&](int64_t i, int64_t y, int64_t x) { return offset(y, x, cells + 2, HIDDEN) + i; })),
        measure3(k.measure3.layer(w[MEASURE3_BIAS], [](int64_t i, int64_t, int64_t) { return i; })),
        conv1_adjoint(k.conv1.adjoint(
            [&](int64_t o, int64_t y, int64_t x) { return offset(2 - y, 2 - x, halves + 4, FIRST) + o; })),
        conv2_adjoint{{strided_adjoint(k.conv2, 0, 0), strided_adjoint(k.conv2, 0, 1)},
                      {strided_adjoint(k.conv2, 1, 0), strided_adjoint(k.conv2, 1, 1)}},
        conv3_adjoint(k.conv3.adjoint([](int64_t o, int64_t, int64_t) { return o; })),
        measure2_adjoint(k.measure2.adjoint(
            [&](int64_t o, int64_t y, int64_t x) { return offset(2 - y, 2 - x, cells + 2, LAST) + o; })),
        measure3_adjoint(k.measure3.adjoint([](int64_t o, int64_t, int64_t) { return o; })),
        scale(w[SCALE]),
        shift(w[SHIFT]),
        measure1_inputs(MEASURED * HIDDEN),
        x(COEFFICIENTS * cells * cells),
        y(COEFFICIENTS * cells * cells) {
    for (int64_t input = 0; input < MEASURED; ++input)
      for (int64_t output = 0; output < HIDDEN; ++output)
        measure1_inputs[input * HIDDEN + output] = k.measure1(output, input, 0, 0);
    for (int64_t i = 0; i < COEFFICIENTS; ++i) prior[i] = std::exp(w[PRIOR][i]);
    for (int64_t i = 0; i < COEFFICIENTS * cells * cells; ++i) x[i] = w[VELOCITY][2 * i], y[i] = w[VELOCITY][2 * i + 1];
  }

  static int64_t offset(int64_t y, int64_t x, int64_t width, int64_t channels) {
    return (y * width + x) * padded(channels);
  }

  // Row i of the second layer reads the rows 2i, 2i + 1 and 2i + 2 of the framed map with its three taps. So row 2i of
  // that map gets its gradient through the first tap of row i and the last tap of row i - 1, and row 2i + 1 through the
  // middle tap of row i alone. The same holds for columns.
  Layer strided_adjoint(const Kernel& conv2, int64_t odd_y, int64_t odd_x) const {
    return conv2.adjoint(
        [&](int64_t o, int64_t y, int64_t x) { return offset(1 - y / 2, 1 - x / 2, cells + 2, SECOND) + o; },
        {odd_y, odd_x}, 2);
  }
};

}  // namespace align
