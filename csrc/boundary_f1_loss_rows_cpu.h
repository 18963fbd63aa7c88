// Computes the full-resolution rows of an image, from top to bottom, in plain loops that the compiler vectorizes. Of
// the C maps only the rows of a window exist at a time. A row depends only on the rows around it, which are added in
// order, and not on where a thread begins. It is included once per instruction set.
//
// With p the softmax of a pixel's logits z, a class has the predicted boundary b = p - min p, where the minimum is that
// of the window. It is taken along rows first: the *low* of a row of the window, and then the lowest of the lows. So
// the first minimum, row by row, is the first place in the first row that has it, and the gradient g of b goes
//   + to p at the pixel,
//   - to the low of the first row that has the minimum, and from there to the first p that is this low.
// A low is computed by taking the lowest of three neighbours, radius times. The first of three, radius times, is the
// first of the row, too.
// The gradient by z_c is p_c (g_c - sum_k p_k g_k), with g_c now that by p_c.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "common/softmax_rows_cpu.h"

#ifndef BOUNDARY_F1_LOSS_ROWS_CPU_H
#define BOUNDARY_F1_LOSS_ROWS_CPU_H

namespace boundary_f1_loss {

// What a pixel is that is not of the true boundary: its window has no void, or it has.
constexpr int32_t INSIDE = -1, UNKNOWN = -2;

// A number holds the bits of 32 classes.
inline int64_t words_of(int64_t classes) { return (classes + 31) / 32; }

struct Arguments {
  softmax::Maps maps;
  const int32_t* edges;  // [N, H, W]: of the true boundary the class, otherwise INSIDE or UNKNOWN
  const uint32_t* near;  // [N, H, words, W]: the classes whose true boundary is near
  int64_t radius;        // of the windows
  double* sums;          // forward: [N, H, C, 4], zero: sums of b, b near, b t and t
  const float* slopes;   // backward: [3, C], derivatives by the first three sums
};

}  // namespace boundary_f1_loss

#endif

namespace boundary_f1_loss::SIMD_TARGET {

using softmax::SIMD_TARGET::Block;
using softmax::SIMD_TARGET::BLOCK;
using softmax::SIMD_TARGET::LANES;
using softmax::SIMD_TARGET::total;

template <class T> inline T lower(T a, T b) { return a < b ? a : b; }
template <class T> inline T higher(T a, T b) { return a > b ? a : b; }
inline float nan_is_least(float value) { return value == value ? value : -1; }  // of probabilities

// Finds the true boundary in the rows [begin, end) of all images. A label that is no class must not pass in silence:
// the pixels around it are INSIDE, where its probabilities count, which are NaN.
inline void mark_rows(const softmax::Maps& maps, int64_t radius,
                      int32_t* edges,  // [N, H, W]
                      int64_t begin, int64_t end) {
  constexpr int32_t VOID = -1, FLAW = -2, LARGEST = std::numeric_limits<int32_t>::max();
  const int64_t height = maps.rows.full, width = maps.columns.full, reach = std::min(radius, width - 1);
  std::vector<int32_t> label(width), low(width), high(width);
  std::vector<int32_t> lowest(width + 2 * reach), highest(lowest);  // of the window's rows, from the reach before on
  for (int64_t i = begin; i < end; ++i) {
    const int64_t y = i % height;
    std::fill(lowest.begin(), lowest.end(), LARGEST), std::fill(highest.begin(), highest.end(), -LARGEST);
    for (int64_t dy = -std::min(radius, y); dy <= std::min(radius, height - 1 - y); ++dy) {
      const int64_t* ids = maps.labels + (i + dy) * width;
      for (int64_t x = 0; x < width; ++x) {
        const int64_t id = ids[x], known = id < 0 || id >= maps.classes ? FLAW : id;
        label[x] = static_cast<int32_t>(id == maps.ignore_index ? VOID : known);
      }
      for (int64_t x = 0; x < width; ++x) {
        lowest[reach + x] = lower(lowest[reach + x], label[x]);
        highest[reach + x] = higher(highest[reach + x], label[x]);
      }
    }
    std::fill(low.begin(), low.end(), LARGEST), std::fill(high.begin(), high.end(), -LARGEST);
    for (int64_t dx = 0; dx <= 2 * reach; ++dx)
      for (int64_t x = 0; x < width; ++x) {
        low[x] = lower(low[x], lowest[x + dx]);
        high[x] = higher(high[x], highest[x + dx]);
      }
    const int64_t* own = maps.labels + i * width;
    int32_t* __restrict edge = edges + i * width;
    for (int64_t x = 0; x < width; ++x) {
      const int32_t known = high[x] > low[x] && low[x] >= 0 ? static_cast<int32_t>(own[x]) : INSIDE;
      edge[x] = low[x] == VOID ? UNKNOWN : known;
    }
  }
}

// Sets the bits of the rows [begin, end) of all images.
inline void spread_rows(const softmax::Maps& maps, int64_t tolerance,
                        const int32_t* edges,  // [N, H, W]
                        uint32_t* near,        // [N, H, words, W]
                        int64_t begin, int64_t end) {
  const int64_t height = maps.rows.full, width = maps.columns.full, words = words_of(maps.classes);
  const int64_t reach = std::min(tolerance, width - 1);
  std::vector<uint32_t> column(width);  // the bits of the rows that are near
  for (int64_t i = begin; i < end; ++i) {
    const int64_t y = i % height, above = std::min(tolerance, y), below = std::min(tolerance, height - 1 - y);
    for (int64_t word = 0; word < words; ++word) {
      std::fill(column.begin(), column.end(), 0);
      for (int64_t dy = -above; dy <= below; ++dy) {
        const int32_t* edge = edges + (i + dy) * width;
        for (int64_t x = 0; x < width; ++x) column[x] |= edge[x] >> 5 == word ? 1u << (edge[x] & 31) : 0;
      }
      uint32_t* __restrict bits = near + (i * words + word) * width;
      std::fill_n(bits, width, 0);
      for (int64_t dx = -reach; dx <= reach; ++dx)
        for (int64_t x = std::max<int64_t>(-dx, 0); x < width - std::max<int64_t>(dx, 0); ++x)
          bits[x] |= column[x + dx];
    }
  }
}

// Sends the gradient of three neighbours' lowest to the first that has it.
inline void send_to_first(const float* __restrict values,    // [-2, count]
                          const float* __restrict low,       // [-1, count + 1], the lowest of each and its neighbours
                          const float* __restrict grad_low,  // [-1, count + 1]
                          int64_t count,
                          float* __restrict grad) {  // [count]
  for (int64_t x = 0; x < count; ++x) {
    // This one may be the first of the three whose lowest is at its right, at itself or at its left.
    const float before = nan_is_least(values[x - 1]), here = nan_is_least(values[x]);
    const float right = here == low[x + 1] ? grad_low[x + 1] : 0;
    const float middle = here == low[x] && before != low[x] ? grad_low[x] : 0;
    const float left = before != low[x - 1] && nan_is_least(values[x - 2]) != low[x - 1] ? grad_low[x - 1] : 0;
    grad[x] = right + middle + left;
  }
}

constexpr int64_t PAD = 2;  // columns beyond each border of a map's row, so that three neighbours need no end

struct Row {
  std::vector<float> p;     // [C, PAD + W + PAD], probabilities, infinite beyond the border
  std::vector<float> low;   // [C, PAD + W + PAD], the smallest of a row of the window, infinite beyond the border
  std::vector<float> grad;  // [C, PAD + W + PAD], backward: of low and, later, of p by it; 0 beyond the border
  std::vector<float> flaw;  // [W], NaN where a row of the window has a probability that is, otherwise 0
};

// Computes an image's rows and compares them with each other.
class Sweep {
 public:
  // `first` is the first row of image n that will be asked for.
  Sweep(const Arguments& args, int64_t n, int64_t first)
      : args(args),
        classes(args.maps.classes),
        height(args.maps.rows.full),
        width(args.maps.columns.full),
        stride(width + 2 * PAD),
        words(words_of(classes)),
        labels(args.maps.labels + n * height * width),
        edges(args.edges + n * height * width),
        near(args.near + n * height * words * width),
        logits(args.maps.columns, args.maps.logits + n * classes * args.maps.rows.size * args.maps.columns.size,
               classes, args.maps.rows.size),
        radius(std::min(args.radius, std::max(height, width))),
        next(std::max<int64_t>(first - (args.slopes ? 2 : 1) * radius, 0)),
        center(std::max<int64_t>(first - radius, 0)),
        ring(std::min(2 * radius + 1, height)),
        lows(radius + 1),
        levels(radius * stride, std::numeric_limits<float>::infinity()),
        sent(2 * stride),
        flaws(width) {
    for (Row& row : ring) {
      row.p.resize(classes * stride, std::numeric_limits<float>::infinity()), row.low = row.p;
      row.grad.resize(args.slopes ? classes * stride : 0);
      row.flaw.resize(width);
    }
    block.classes = classes, block.width = width;
    block.channels.resize(classes * BLOCK);
  }

  // Adds the sums of row y to `sums`, [C, 4]. Rows must be asked for one after the other, from the first on.
  void add_sums(int64_t y, double* sums) {
    make_rows(y);
    for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
      const int64_t count = std::min(BLOCK, width - x0);
      alignas(64) float b[BLOCK] = {}, weight[BLOCK];  // weight: 0 where the pixel is not known, otherwise 1, or NaN
      alignas(64) int32_t edge[BLOCK] = {};
      alignas(64) uint32_t bits[BLOCK] = {};
      std::copy_n(edges + y * width + x0, count, edge);
      std::fill(edge + count, edge + BLOCK, INSIDE);
      std::fill_n(weight, count, 1.0f);
      for (int64_t other = top(y); other < bottom(y); ++other)
        for (int64_t x = 0; x < count; ++x) weight[x] += row(other).flaw[x0 + x];
      for (int64_t x = 0; x < count; ++x) weight[x] = edge[x] == UNKNOWN ? 0 : weight[x];
      for (int64_t c = 0; c < classes; ++c) {
        if (c % 32 == 0) std::copy_n(near_row(y, c) + x0, count, bits);
        const float* p = row(y).p.data() + c * stride + PAD + x0;
        find_lowest(y, c, x0, count, b);
        for (int64_t x = 0; x < count; ++x) b[x] = weight[x] == 0 ? 0 : (p[x] - b[x]) * weight[x];
        float predicted[LANES] = {}, precise[LANES] = {}, recalled[LANES] = {}, truth[LANES] = {};
        for (int64_t x = 0; x < count; x += LANES)
          for (int64_t i = 0; i < LANES; ++i) {
            const float close = static_cast<int32_t>(bits[x + i] >> c % 32 & 1), mine = edge[x + i] == c;
            predicted[i] += b[x + i];
            precise[i] += b[x + i] * close;
            recalled[i] += b[x + i] * mine;
            truth[i] += mine;
          }
        sums[4 * c] += total(predicted), sums[4 * c + 1] += total(precise);
        sums[4 * c + 2] += total(recalled), sums[4 * c + 3] += total(truth);
      }
    }
  }

  // Adds the gradient of row y to those of the two rows of logits that it lies between, [C, W]. Rows must be asked for
  // one after the other, from the first on.
  void send_back(int64_t y, float* grad_above, float* grad_below) {
    for (; center < bottom(y); ++center) {
      make_rows(center);
      send_to_lows(center);
    }
    send_to_probabilities(row(y));
    for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
      alignas(64) float dot[BLOCK] = {};  // sum_k p_k g_k
      block.count = std::min(BLOCK, width - x0), block.share = args.maps.rows.share[y];
      block.grad_first = grad_above + x0, block.grad_second = grad_below + x0;
      block.read_labels(labels + y * width + x0, args.maps.ignore_index);
      for (int64_t c = 0; c < classes; ++c) {
        const int64_t start = c * stride + PAD + x0;
        const float *p = row(y).p.data() + start, *by_low = row(y).grad.data() + start;
        float* __restrict grad = block.channels.data() + c * BLOCK;
        differentiate(y, c, x0, block.count, grad);
        for (int64_t x = 0; x < block.count; ++x) {
          grad[x] += by_low[x];
          dot[x] += p[x] * grad[x];
        }
      }
      for (int64_t c = 0; c < classes; ++c)
        block.send_back(c, [&, p = row(y).p.data() + c * stride + PAD + x0](int64_t x, float grad) {
          return p[x] * (grad - dot[x]);
        });
    }
  }

 private:
  // Computes the gradient of b of a class, at `count` pixels of row y.
  void differentiate(int64_t y, int64_t c, int64_t x0, int64_t count, float* __restrict grad) const {
    const float predicted = args.slopes[c], precise = args.slopes[classes + c], recalled = args.slopes[2 * classes + c];
    const int32_t *edge = edges + y * width + x0, label = static_cast<int32_t>(c);
    const uint32_t *bits = near_row(y, c) + x0, bit = 1u << c % 32;
    for (int64_t x = 0; x < count; ++x) {
      const float slope = predicted + (bits[x] & bit ? precise : 0) + (edge[x] == label ? recalled : 0);
      grad[x] = edge[x] == UNKNOWN ? 0 : slope;
    }
  }

  const uint32_t* near_row(int64_t y, int64_t c) const { return near + (y * words + c / 32) * width; }

  // The rows [top, bottom) of the window of row y.
  int64_t top(int64_t y) const { return std::max<int64_t>(y - radius, 0); }
  int64_t bottom(int64_t y) const { return std::min(y + radius + 1, height); }

  Row& row(int64_t y) { return ring[y % static_cast<int64_t>(ring.size())]; }

  void make_rows(int64_t y) {
    for (; next < bottom(y); ++next) make(row(next), next);
  }

  void make(Row& row, int64_t y) {
    const Axis& rows = args.maps.rows;
    const float *above = logits.row(rows.before[y]), *below = logits.row(rows.after[y]);
    for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
      block.count = std::min(BLOCK, width - x0), block.share = rows.share[y];
      block.first = above + x0, block.second = below + x0;
      block.read_labels(labels + y * width + x0, args.maps.ignore_index);
      block.mix_logits();
      block.exponentiate();
      alignas(64) float scale[BLOCK];
      for (int64_t x = 0; x < block.count; ++x) {
        scale[x] = block.weight[x] / block.total[x];
        flaws[x0 + x] = block.weight[x] == 0 ? 0 : 0 * scale[x];
      }
      for (int64_t c = 0; c < classes; ++c) {
        const float* exp = block.channels.data() + c * BLOCK;
        float* __restrict p = row.p.data() + c * stride + PAD + x0;
        for (int64_t x = 0; x < block.count; ++x) p[x] = block.weight[x] == 0 ? 0 : exp[x] * scale[x];
      }
    }
    std::fill(row.flaw.begin(), row.flaw.end(), 0.0f);
    for (int64_t dx = -std::min(radius, width - 1); dx <= std::min(radius, width - 1); ++dx)
      for (int64_t x = std::max<int64_t>(-dx, 0); x < width - std::max<int64_t>(dx, 0); ++x)
        row.flaw[x] += flaws[x + dx];
    for (int64_t c = 0; c < classes; ++c) find_lows(row, c, radius);
    std::fill(row.grad.begin(), row.grad.end(), 0.0f);
  }

  // Computes `lows` of a class up to a level: from its probabilities, level 0, to its low, that of the radius.
  void find_lows(Row& row, int64_t c, int64_t last) {
    for (int64_t level = 0; level <= radius; ++level) lows[level] = levels.data() + level * stride + PAD;
    lows[0] = row.p.data() + c * stride + PAD, lows[radius] = row.low.data() + c * stride + PAD;
    for (int64_t level = 1; level <= last; ++level) {
      const float* values = lows[level - 1];
      float* __restrict low = lows[level];
      for (int64_t x = 0; x < width; ++x)
        low[x] = lower(lower(nan_is_least(values[x - 1]), nan_is_least(values[x])), nan_is_least(values[x + 1]));
    }
  }

  // Finds the minima of the windows of `count` pixels of row y.
  void find_lowest(int64_t y, int64_t c, int64_t x0, int64_t count, float* __restrict lowest) {
    std::fill_n(lowest, count, std::numeric_limits<float>::infinity());
    for (int64_t other = top(y); other < bottom(y); ++other) {
      const float* low = row(other).low.data() + c * stride + PAD + x0;
      for (int64_t x = 0; x < count; ++x) lowest[x] = lower(lowest[x], low[x]);
    }
  }

  // Sends the gradient of row y's minima to the lows that they are, in the first row that has them.
  void send_to_lows(int64_t y) {
    for (int64_t c = 0; c < classes; ++c)
      for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
        alignas(64) float grad[BLOCK], lowest[BLOCK];
        const int64_t count = std::min(BLOCK, width - x0), start = c * stride + PAD + x0;
        differentiate(y, c, x0, count, grad);
        find_lowest(y, c, x0, count, lowest);
        for (int64_t other = top(y); other < bottom(y); ++other) {
          const float* low = row(other).low.data() + start;
          float* __restrict grad_low = row(other).grad.data() + start;
          for (int64_t x = 0; x < count; ++x) {
            grad_low[x] -= low[x] == lowest[x] ? grad[x] : 0;
            grad[x] = low[x] == lowest[x] ? 0 : grad[x];
          }
        }
      }
  }

  // Sends the gradient of a row's lows to the probabilities that they are.
  void send_to_probabilities(Row& row) {
    for (int64_t c = 0; c < classes; ++c) {
      find_lows(row, c, radius - 1);
      float *grad = row.grad.data() + c * stride + PAD, *to = sent.data() + PAD, *next_to = to + stride;
      const float* from = grad;
      for (int64_t level = radius; level > 0; --level) {
        send_to_first(lows[level - 1], lows[level], from, width, to);
        from = to;
        std::swap(to, next_to);
      }
      std::copy_n(from, width, grad);
    }
  }

  const Arguments& args;
  const int64_t classes, height, width, stride, words;
  const int64_t* const labels;  // [H, W]
  const int32_t* const edges;   // [H, W]
  const uint32_t* const near;   // [H, words, W]
  resize::SIMD_TARGET::Stretched logits;
  const int64_t radius;
  int64_t next, center;  // rows: the next to make, and the next whose minima send their gradient back
  std::vector<Row> ring;
  std::vector<float*> lows;   // [radius + 1]: see find_lows
  std::vector<float> levels;  // [radius, PAD + W + PAD], the lows between
  std::vector<float> sent;    // [2, PAD + W + PAD], their gradients, 0 beyond the border
  std::vector<float> flaws;   // [W], NaN where probabilities are, otherwise 0
  Block block;
};

// Adds up the rows [begin, end) of all images.
inline void forward_rows(const Arguments& args, int64_t begin, int64_t end) {
  const int64_t height = args.maps.rows.full;
  for (int64_t i = begin; i < end;) {
    const int64_t n = i / height, last = std::min(end, (n + 1) * height);
    Sweep sweep(args, n, i - n * height);
    for (; i < last; ++i) sweep.add_sums(i - n * height, args.sums + 4 * args.maps.classes * i);
  }
}

// Computes the rows [begin, end) of the gradients of all images' logits.
inline void backward_rows(const Arguments& args, int64_t begin, int64_t end) {
  resize::SIMD_TARGET::gather_rows(
      args.maps.rows, args.maps.columns, args.maps.classes, args.maps.grad_logits, begin, end,
      [&](int64_t n, int64_t first) { return Sweep(args, n, first); },
      [](Sweep& sweep, int64_t y, float* above, float* below) { sweep.send_back(y, above, below); });
}

}  // namespace boundary_f1_loss::SIMD_TARGET
