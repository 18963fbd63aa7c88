// The equations of two tiles' features, and the gradient by the features. Included once per instruction set.

namespace align::SIMD_TARGET {

// Of a cell: rows of L^T A, and what it measured along them.
struct Row {
  float of[2][8], measured[2];

  // `positive`: softplus of the outputs.
  FN Row(const float* outputs, const float* positive, const float* x, const float* y, float unit) {
    const float dx = outputs[0], dy = outputs[1], yx = outputs[3], xx = positive[2], yy = positive[4];
    for (int i = 0; i < 8; ++i) of[0][i] = xx * x[i] + yx * y[i], of[1][i] = yy * y[i];
    measured[0] = (xx * dx + yx * dy) * unit, measured[1] = yy * dy * unit;
  }
};

struct Equations {
  double matrix[8][8] = {}, vector[8] = {};
};

class EquationsForward {
 public:
  explicit EquationsForward(const Network& of)
      : before1(of.cells * of.cells * padded(HIDDEN)),
        before2(of.cells * of.cells * LAST),
        outputs(of.cells * of.cells * LINE),
        positive(outputs.size()),
        of(of),
        cells((OFFSETS + FEATURES) * of.cell_row),
        hidden((of.cells + 2) * (of.cells + 2) * padded(HIDDEN)),
        last(of.cells * LAST) {}

  Equations operator()(const Maps& a, const Maps& b) {
    measure(a, b);
    Equations result;
    for (int64_t y = 0; y < of.cells; ++y) {
      float matrix[8][8] = {}, vector[8] = {};
      for (int64_t cell = y * of.cells; cell < (y + 1) * of.cells; ++cell) {
        const Row row = row_of(cell);
        for (int k = 0; k < 2; ++k)
          for (int i = 0; i < 8; ++i) {
            for (int j = 0; j < 8; ++j) matrix[i][j] += row.of[k][i] * row.of[k][j];
            vector[i] += row.of[k][i] * row.measured[k];
          }
      }
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) result.matrix[i][j] += matrix[i][j];
        result.vector[i] += vector[i];
      }
    }
    return result;
  }

  void measure(const Maps& a, const Maps& b) {
    const int64_t n = of.cells;
    constexpr int64_t line = padded(HIDDEN);
    const Product<1> product1(of.measure1, line);
    const Product<line> product2(of.measure2, LAST);
    const Product<LAST> product3(of.measure3, LINE);
    for (int64_t y = 0; y < n; ++y) {
      correlate(a, b, y);
      float* before = before1.data() + y * n * line;
      product1(cells.data(), before, n);
      silu(before, n * line, hidden.data() + ((y + 1) * (n + 2) + 1) * line);
    }
    for (int64_t y = 0; y < n; ++y) {
      float* before = before2.data() + y * n * LAST;
      product2(hidden.data() + y * (n + 2) * line, before, n);
      silu(before, n * LAST, last.data());
      const int64_t at = y * n * LINE;
      product3(last.data(), outputs.data() + at, n);
      for (int64_t i = at; i < at + n * LINE; ++i) positive[i] = softplus(outputs[i]);
    }
  }

  Row row_of(int64_t cell) const {
    const int64_t at = cell * LINE;
    return Row(outputs.data() + at, positive.data() + at, of.x.data() + 8 * cell, of.y.data() + 8 * cell, of.unit());
  }

  std::vector<float> before1, before2;   // each layer's result before what follows
  std::vector<float> outputs, positive;  // OUTPUTS numbers a cell, in lines; their softplus

 private:
  // A row of cells.
  void correlate(const Maps& a, const Maps& b, int64_t y) {
    constexpr int64_t channels = FEATURES / GROUPS;
    float* to = cells.data();
    for (int64_t group = 0; group < GROUPS; ++group)
      for (int64_t dy = -REACH; dy <= REACH; ++dy, to += SPAN * of.cell_row)
        for (int64_t x = 0; x < of.cell_row; x += LANES) {
          Vector sum[SPAN] = {};
          for (int64_t c = group * channels; c < (group + 1) * channels; ++c) {
            const Vector here = load(a.row(c, y) + x);
            const float* there = b.row(c, y + dy) + x - REACH;
#pragma GCC unroll 32
            for (int64_t dx = 0; dx < SPAN; ++dx) sum[dx] += here * load(there + dx);
          }
#pragma GCC unroll 32
          for (int64_t dx = 0; dx < SPAN; ++dx) store(to + dx * of.cell_row + x, sum[dx] / channels);
        }
    for (int64_t c = 0; c < FEATURES; ++c, to += of.cell_row) std::copy_n(a.row(c, y), of.cells, to);
  }

  const Network& of;
  std::vector<float> cells;  // (OFFSETS + FEATURES, cells) of a row: correlation and features
  std::vector<float> hidden, last;
};

class EquationsBackward {
 public:
  explicit EquationsBackward(const Network& of)
      : of(of),
        last((of.cells + 2) * (of.cells + 2) * LAST),
        hidden(of.cells * of.cells * padded(HIDDEN)),
        maps(HIDDEN * of.cell_row),
        each(HIDDEN),
        cells(of, OFFSETS + FEATURES) {
    std::iota(each.begin(), each.end(), 0);
  }

  // Adds to the gradients by the features of either side, or where there is none (null) leaves it out.
  void operator()(EquationsForward& forward, const Maps& a, const Maps& b, const float (&by_matrix)[8][8],
                  const float (&by_vector)[8], Maps* by_a, Maps* by_b) {
    const int64_t n = of.cells;
    constexpr int64_t line = padded(HIDDEN);
    forward.measure(a, b);
    const Product<LINE> adjoint3(of.measure3_adjoint, LAST);
    const Product<LAST> adjoint2(of.measure2_adjoint, line);
    for (int64_t y = 0; y < n; ++y) {
      outputs_backward(forward, y, by_matrix, by_vector);
      float* to = last.data() + ((y + 1) * (n + 2) + 1) * LAST;
      adjoint3(forward.outputs.data() + y * n * LINE, to, n);
      silu_backward(forward.before2.data() + y * n * LAST, n * LAST, to);
    }
    for (int64_t y = 0; y < n; ++y) {
      float* to = hidden.data() + y * n * line;
      adjoint2(last.data() + y * (n + 2) * LAST, to, n);
      silu_backward(forward.before1.data() + y * n * line, n * line, to);
      cells_backward(y);
    }
    for (int64_t y = 0; y < n; ++y) {
      if (by_a) correlate_backward<1>(b, y, *by_a);
      if (by_b) correlate_backward<-1>(a, y, *by_b);
      for (int64_t c = 0; by_a && c < FEATURES; ++c) {
        const float* from = cells.row(OFFSETS + c, y);
        float* __restrict to = by_a->row(c, y);
        for (int64_t x = 0; x < n; ++x) to[x] += from[x];
      }
    }
  }

 private:
  // The outputs of a row of cells become the gradients by them.
  void outputs_backward(EquationsForward& forward, int64_t y, const float (&by_matrix)[8][8],
                        const float (&by_vector)[8]) const {
    for (int64_t cell = y * of.cells; cell < (y + 1) * of.cells; ++cell) {
      const Row row = forward.row_of(cell);
      float by_row[2][8], by_measured[2] = {};
      for (int k = 0; k < 2; ++k) {
        for (int i = 0; i < 8; ++i) by_row[k][i] = by_vector[i] * row.measured[k];
        for (int j = 0; j < 8; ++j)
          for (int i = 0; i < 8; ++i) by_row[k][i] += by_matrix[j][i] * row.of[k][j];
        for (int i = 0; i < 8; ++i) by_measured[k] += by_vector[i] * row.of[k][i] * of.unit();
      }
      const float *vx = of.x.data() + 8 * cell, *vy = of.y.data() + 8 * cell;
      float by_xx = 0, by_yx = 0, by_yy = 0;
      for (int i = 0; i < 8; ++i)
        by_xx += by_row[0][i] * vx[i], by_yx += by_row[0][i] * vy[i], by_yy += by_row[1][i] * vy[i];
      float* outputs = forward.outputs.data() + cell * LINE;
      const float* positive = forward.positive.data() + cell * LINE;
      const float dx = outputs[0], dy = outputs[1], yx = outputs[3];
      outputs[0] = by_measured[0] * positive[2], outputs[1] = by_measured[0] * yx + by_measured[1] * positive[4];
      outputs[2] = (by_xx + by_measured[0] * dx) * sigmoid(outputs[2]), outputs[3] = by_yx + by_measured[0] * dy;
      outputs[4] = (by_yy + by_measured[1] * dy) * sigmoid(outputs[4]);
    }
  }

  // From the gradient by a row of hidden cells to that by what they were made of.
  void cells_backward(int64_t y) {
    for (int64_t c = 0; c < HIDDEN; ++c)
      for (int64_t x = 0; x < of.cells; ++x)
        maps[c * of.cell_row + x] = hidden[(y * of.cells + x) * padded(HIDDEN) + c];
    // Channels take the pixels' part, and pixels the channels'. Beyond the row all is zero.
    const Product<HIDDEN> product(each, maps.data(), of.cell_row, of.cell_row, nullptr, cells.plane);
    product(of.measure1_inputs.data(), cells.row(0, y), OFFSETS + FEATURES);
  }

  // A row of cells of one side: from each neighbour on the other, `SIGN` times an offset away.
  template <int SIGN> void correlate_backward(const Maps& other, int64_t y, Maps& to) const {
    constexpr int64_t channels = FEATURES / GROUPS;
    for (int64_t group = 0; group < GROUPS; ++group)
      for (int64_t x = 0; x < of.cell_row; x += LANES) {
        Vector sum[channels] = {};
        for (int64_t dy = -REACH; dy <= REACH; ++dy)
          for (int64_t dx = -REACH; dx <= REACH; ++dx) {
            const int64_t offset = (group * SPAN + dy + REACH) * SPAN + dx + REACH;
            // The first side's gradient lies at the cell itself, the second's at the one that it was a neighbour of.
            const int64_t there = x + SIGN * (dy * other.line + dx);
            const Vector grad = load(cells.row(offset, y) + (SIGN > 0 ? x : there));
            const float* neighbour = other.row(group * channels, y) + there;
#pragma GCC unroll 32
            for (int64_t c = 0; c < channels; ++c) sum[c] += grad * load(neighbour + c * other.plane);
          }
        for (int64_t c = 0; c < channels; ++c) {
          float* result = to.row(group * channels + c, y) + x;
          store(result, load(result) + sum[c] / channels);
        }
      }
  }

  const Network& of;
  std::vector<float> last, hidden, maps;  // gradients, those by a row of hidden cells also channel by channel
  std::vector<int64_t> each;
  Maps cells;  // gradient by correlation and features
};

}  // namespace align::SIMD_TARGET
