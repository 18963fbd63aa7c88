// The equations of two tiles' features, and the gradient by the features. It is included once per instruction set.
//
// A cell measures a displacement d with the precision W = L L^T. A, its velocity, says how each coefficient moves it.
// With R = L^T A and m = L^T d, summed over the cells, the equations K a = v are K = sum R^T R and v = sum R^T m. So
//   grad R = R (grad K + (grad K)^T) + m (grad v)^T
//   grad m = R grad v.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "align/align_features_cpu.h"

namespace align::SIMD_TARGET {

// A cell's R and m.
struct Measurement {
  float rows[2][COEFFICIENTS], numbers[2];

  FN Measurement(const float* outputs,   // [OUTPUTS]: dx, dy, xx, yx, yy
                 const float* positive,  // [OUTPUTS], their softplus
                 const float* x,         // [COEFFICIENTS], the cell's velocity
                 const float* y,         // [COEFFICIENTS]
                 float unit) {
    const float dx = outputs[0], dy = outputs[1], yx = outputs[3], xx = positive[2], yy = positive[4];
    for (int i = 0; i < COEFFICIENTS; ++i) rows[0][i] = xx * x[i] + yx * y[i], rows[1][i] = yy * y[i];
    numbers[0] = (xx * dx + yx * dy) * unit, numbers[1] = yy * dy * unit;
  }
};

// K and v of the equations.
struct Equations {
  double matrix[COEFFICIENTS][COEFFICIENTS] = {}, vector[COEFFICIENTS] = {};
};

// grad K + (grad K)^T, and grad v.
struct EquationsGradient {
  float matrix[COEFFICIENTS][COEFFICIENTS], vector[COEFFICIENTS];
};

constexpr int64_t HIDDEN_LINE = padded(HIDDEN);
static_assert(LAST % LINE == 0 && OUTPUTS <= LINE);

class EquationsForward {
 public:
  std::vector<float> before1;            // [cells, cells, HIDDEN_LINE], the first layer before its activation
  std::vector<float> before2;            // [cells, cells, LAST], the second one
  std::vector<float> outputs, positive;  // [cells, cells, LINE], the third one, and its softplus

  explicit EquationsForward(const Network& net)
      : before1(net.cells * net.cells * HIDDEN_LINE),
        before2(net.cells * net.cells * LAST),
        outputs(net.cells * net.cells * LINE),
        positive(outputs.size()),
        net(net),
        inputs(MEASURED * net.cell_row),
        hidden((net.cells + 2) * (net.cells + 2) * HIDDEN_LINE),
        last(net.cells * LAST) {}

  Equations operator()(const Maps& a, const Maps& b) {
    measure(a, b);
    Equations result;
    for (int64_t y = 0; y < net.cells; ++y) {
      float matrix[COEFFICIENTS][COEFFICIENTS] = {}, vector[COEFFICIENTS] = {};
      for (int64_t cell = y * net.cells; cell < (y + 1) * net.cells; ++cell) {
        const Measurement measured = measurement(cell);
        for (int k = 0; k < 2; ++k)
          for (int i = 0; i < COEFFICIENTS; ++i) {
            for (int j = 0; j < COEFFICIENTS; ++j) matrix[i][j] += measured.rows[k][i] * measured.rows[k][j];
            vector[i] += measured.rows[k][i] * measured.numbers[k];
          }
      }
      for (int i = 0; i < COEFFICIENTS; ++i) {
        for (int j = 0; j < COEFFICIENTS; ++j) result.matrix[i][j] += matrix[i][j];
        result.vector[i] += vector[i];
      }
    }
    return result;
  }

  // Computes the outputs.
  void measure(const Maps& a, const Maps& b) {
    const int64_t n = net.cells;
    const Product<1> product1(net.measure1, HIDDEN_LINE);
    const Product<HIDDEN_LINE> product2(net.measure2, LAST);
    const Product<LAST> product3(net.measure3, LINE);
    for (int64_t y = 0; y < n; ++y) {
      correlate(a, b, y);
      float* before = before1.data() + y * n * HIDDEN_LINE;
      product1(inputs.data(), before, n);
      silu(before, n * HIDDEN_LINE, hidden.data() + ((y + 1) * (n + 2) + 1) * HIDDEN_LINE);
    }
    for (int64_t y = 0; y < n; ++y) {
      float* before = before2.data() + y * n * LAST;
      product2(hidden.data() + y * (n + 2) * HIDDEN_LINE, before, n);
      silu(before, n * LAST, last.data());
      const int64_t start = y * n * LINE;
      product3(last.data(), outputs.data() + start, n);
      for (int64_t i = start; i < start + n * LINE; ++i) positive[i] = softplus(outputs[i]);
    }
  }

  Measurement measurement(int64_t cell) const {
    const int64_t start = cell * LINE;
    return Measurement(outputs.data() + start, positive.data() + start, net.x.data() + COEFFICIENTS * cell,
                       net.y.data() + COEFFICIENTS * cell, net.unit());
  }

 private:
  // Computes the inputs of row y: the correlation of a's cells with their neighbours in b, and a's features.
  void correlate(const Maps& a, const Maps& b, int64_t y) {
    float* result = inputs.data();
    for (int64_t group = 0; group < GROUPS; ++group)
      for (int64_t dy = -REACH; dy <= REACH; ++dy, result += SPAN * net.cell_row)
        for (int64_t x = 0; x < net.cell_row; x += LANES) {
          Vector sum[SPAN] = {};
          for (int64_t c = group * GROUP_CHANNELS; c < (group + 1) * GROUP_CHANNELS; ++c) {
            const Vector here = load(a.row(c, y) + x);
            const float* there = b.row(c, y + dy) + x - REACH;
#pragma GCC unroll 32
            for (int64_t dx = 0; dx < SPAN; ++dx) sum[dx] += here * load(there + dx);
          }
#pragma GCC unroll 32
          for (int64_t dx = 0; dx < SPAN; ++dx) store(result + dx * net.cell_row + x, sum[dx] / GROUP_CHANNELS);
        }
    for (int64_t c = 0; c < FEATURES; ++c, result += net.cell_row) std::copy_n(a.row(c, y), net.cells, result);
  }

  const Network& net;
  std::vector<float> inputs;  // [MEASURED, cell_row], of a row of cells
  std::vector<float> hidden;  // [cells + 2, cells + 2, HIDDEN_LINE], framed by zeros
  std::vector<float> last;    // [cells, LAST], of a row of cells
};

class EquationsBackward {
 public:
  explicit EquationsBackward(const Network& net)
      : net(net),
        grad_last((net.cells + 2) * (net.cells + 2) * LAST),
        grad_hidden(net.cells * net.cells * HIDDEN_LINE),
        grad_hidden_row(HIDDEN * net.cell_row),
        hidden_channels(HIDDEN),
        grad_inputs(net, MEASURED) {
    std::iota(hidden_channels.begin(), hidden_channels.end(), 0);
  }

  // Adds to the gradients by the features of both sides. A side whose gradient is null is left out.
  void operator()(EquationsForward& forward, const Maps& a, const Maps& b, const EquationsGradient& grad, Maps* grad_a,
                  Maps* grad_b) {
    forward.measure(a, b);
    measure_backward(forward, grad);
    for (int64_t y = 0; y < net.cells; ++y) {
      if (grad_a) correlate_backward<1>(b, y, *grad_a);
      if (grad_b) correlate_backward<-1>(a, y, *grad_b);
      for (int64_t c = 0; grad_a && c < FEATURES; ++c) {
        const float* source = grad_inputs.row(OFFSETS + c, y);
        float* __restrict result = grad_a->row(c, y);
        for (int64_t x = 0; x < net.cells; ++x) result[x] += source[x];
      }
    }
  }

 private:
  void measure_backward(EquationsForward& forward, const EquationsGradient& grad) {
    const int64_t n = net.cells;
    const Product<LINE> adjoint3(net.measure3_adjoint, LAST);
    const Product<LAST> adjoint2(net.measure2_adjoint, HIDDEN_LINE);
    for (int64_t y = 0; y < n; ++y) {
      outputs_backward(forward, y, grad);
      float* result = grad_last.data() + ((y + 1) * (n + 2) + 1) * LAST;
      adjoint3(forward.outputs.data() + y * n * LINE, result, n);
      silu_backward(forward.before2.data() + y * n * LAST, n * LAST, result);
    }
    for (int64_t y = 0; y < n; ++y) {
      float* result = grad_hidden.data() + y * n * HIDDEN_LINE;
      adjoint2(grad_last.data() + y * (n + 2) * LAST, result, n);
      silu_backward(forward.before1.data() + y * n * HIDDEN_LINE, n * HIDDEN_LINE, result);
      inputs_backward(y);
    }
  }

  // Replaces the outputs of a row of cells by their gradients. With the cell's velocity (vx, vy), R_0 = xx vx + yx vy,
  // R_1 = yy vy, m_0 = (xx dx + yx dy) unit and m_1 = yy dy unit. The derivative of softplus, which makes xx and yy, is
  // sigmoid. grad_numbers are the gradients by m / unit.
  void outputs_backward(EquationsForward& forward, int64_t y, const EquationsGradient& grad) const {
    for (int64_t cell = y * net.cells; cell < (y + 1) * net.cells; ++cell) {
      const Measurement measured = forward.measurement(cell);
      float grad_rows[2][COEFFICIENTS], grad_numbers[2] = {};
      for (int k = 0; k < 2; ++k) {
        for (int i = 0; i < COEFFICIENTS; ++i) grad_rows[k][i] = grad.vector[i] * measured.numbers[k];
        for (int j = 0; j < COEFFICIENTS; ++j)
          for (int i = 0; i < COEFFICIENTS; ++i) grad_rows[k][i] += grad.matrix[j][i] * measured.rows[k][j];
        for (int i = 0; i < COEFFICIENTS; ++i) grad_numbers[k] += grad.vector[i] * measured.rows[k][i] * net.unit();
      }
      const float *vx = net.x.data() + COEFFICIENTS * cell, *vy = net.y.data() + COEFFICIENTS * cell;
      float grad_xx = 0, grad_yx = 0, grad_yy = 0;
      for (int i = 0; i < COEFFICIENTS; ++i)
        grad_xx += grad_rows[0][i] * vx[i], grad_yx += grad_rows[0][i] * vy[i], grad_yy += grad_rows[1][i] * vy[i];
      float* outputs = forward.outputs.data() + cell * LINE;
      const float* positive = forward.positive.data() + cell * LINE;
      const float dx = outputs[0], dy = outputs[1], yx = outputs[3];
      outputs[0] = grad_numbers[0] * positive[2], outputs[1] = grad_numbers[0] * yx + grad_numbers[1] * positive[4];
      outputs[2] = (grad_xx + grad_numbers[0] * dx) * sigmoid(outputs[2]), outputs[3] = grad_yx + grad_numbers[0] * dy;
      outputs[4] = (grad_yy + grad_numbers[1] * dy) * sigmoid(outputs[4]);
    }
  }

  // Computes the gradient by the inputs of row y.
  void inputs_backward(int64_t y) {
    for (int64_t c = 0; c < HIDDEN; ++c)
      for (int64_t x = 0; x < net.cells; ++x)
        grad_hidden_row[c * net.cell_row + x] = grad_hidden[(y * net.cells + x) * HIDDEN_LINE + c];
    // The product is transposed: its "pixels" are the inputs, its "channels" are the cells of the row. So the result
    // lies channel by channel. Beyond the row all is zero.
    const Product<HIDDEN> product(hidden_channels, grad_hidden_row.data(), net.cell_row, net.cell_row, nullptr,
                                  grad_inputs.plane);
    product(net.measure1_inputs.data(), grad_inputs.row(0, y), MEASURED);
  }

  // Adds to the gradient by one side's features of row y what each neighbour on the other side sends. `SIGN` is 1 for
  // the side whose cells look for neighbours, and -1 for the other one, whose cells are the neighbours.
  template <int SIGN> void correlate_backward(const Maps& other, int64_t y, Maps& grad_features) const {
    for (int64_t group = 0; group < GROUPS; ++group)
      for (int64_t x = 0; x < net.cell_row; x += LANES) {
        Vector sum[GROUP_CHANNELS] = {};
        for (int64_t dy = -REACH; dy <= REACH; ++dy)
          for (int64_t dx = -REACH; dx <= REACH; ++dx) {
            const int64_t offset = (group * SPAN + dy + REACH) * SPAN + dx + REACH;
            // The gradient by a correlation lies at the cell that looked for a neighbour.
            const int64_t there = x + SIGN * (dy * other.line + dx);
            const Vector grad = load(grad_inputs.row(offset, y) + (SIGN > 0 ? x : there));
            const float* neighbour = other.row(group * GROUP_CHANNELS, y) + there;
#pragma GCC unroll 32
            for (int64_t c = 0; c < GROUP_CHANNELS; ++c) sum[c] += grad * load(neighbour + c * other.plane);
          }
        for (int64_t c = 0; c < GROUP_CHANNELS; ++c) {
          float* result = grad_features.row(group * GROUP_CHANNELS + c, y) + x;
          store(result, load(result) + sum[c] / GROUP_CHANNELS);
        }
      }
  }

  const Network& net;
  std::vector<float> grad_last;          // [cells + 2, cells + 2, LAST], framed by zeros
  std::vector<float> grad_hidden;        // [cells, cells, HIDDEN_LINE]
  std::vector<float> grad_hidden_row;    // [HIDDEN, cell_row], a row of it channel by channel
  std::vector<int64_t> hidden_channels;  // [HIDDEN]: 0, 1, 2, ...
  Maps grad_inputs;                      // [MEASURED, cells, cells]
};

}  // namespace align::SIMD_TARGET
