// Computes the full-resolution rows of an image, from top to bottom, in plain loops that the compiler vectorizes. Of
// the C maps only three rows exist at a time. A row depends only on the rows around it, which are added in order, and
// not on where a thread begins. It is included once per instruction set.
//
// With p the softmax of a pixel's logits z, a class has the predicted boundary b = p - min p, where the minimum is that
// of the 3x3 window. It is taken along rows first: the *low* of three neighbours, and then the lowest of three lows. So
// the first minimum, row by row, is the first place in the first row that has it, and the gradient g of b goes
//   + to p at the pixel,
//   - to the low of the first row that has the minimum, and from there to the first p that is this low.
// The gradient by z_c is p_c (g_c - sum_k p_k g_k), with g_c now that by p_c.

#include <algorithm>
#include <cstdint>
#include <limits>
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

// Finds the true boundary in the rows [begin, end) of all images. A label that is no class must not pass in silence:
// the pixels around it are INSIDE, where its probabilities count, which are NaN.
inline void mark_rows(const softmax::Maps& maps,
                      int32_t* edges,  // [N, H, W]
                      int64_t begin, int64_t end) {
  constexpr int32_t VOID = -1, FLAW = -2, LARGEST = std::numeric_limits<int32_t>::max();
  const int64_t height = maps.rows.full, width = maps.columns.full;
  std::vector<int32_t> label(width);
  std::vector<int32_t> lowest(width + 2), highest(width + 2);  // labels of three rows, from one column before
  for (int64_t i = begin; i < end; ++i) {
    std::fill(lowest.begin(), lowest.end(), LARGEST), std::fill(highest.begin(), highest.end(), -LARGEST);
    for (int64_t dy = i % height > 0 ? -1 : 0; dy <= (i % height < height - 1 ? 1 : 0); ++dy) {
      const int64_t* ids = maps.labels + (i + dy) * width;
      for (int64_t x = 0; x < width; ++x) {
        const int64_t id = ids[x], known = id < 0 || id >= maps.classes ? FLAW : id;
        label[x] = static_cast<int32_t>(id == maps.ignore_index ? VOID : known);
      }
      for (int64_t x = 0; x < width; ++x) {
        const int32_t high = highest[x + 1];
        lowest[x + 1] = lower(lowest[x + 1], label[x]), highest[x + 1] = label[x] > high ? label[x] : high;
      }
    }
    const int64_t* own = maps.labels + i * width;
    int32_t* __restrict edge = edges + i * width;
    for (int64_t x = 0; x < width; ++x) {
      const int32_t low = lower(lower(lowest[x], lowest[x + 1]), lowest[x + 2]);
      const bool differs = highest[x] > low || highest[x + 1] > low || highest[x + 2] > low;
      const int32_t known = differs && low >= 0 ? static_cast<int32_t>(own[x]) : INSIDE;
      edge[x] = low == VOID ? UNKNOWN : known;
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

// Sends the gradient of three rows' minima to the first row that has them.
inline void send_to_rows(const float* __restrict above,  // [count], lows
                         const float* __restrict here,   // [count]
                         const float* __restrict below,  // [count]
                         const float* __restrict grad,   // [count], to be subtracted
                         int64_t count,
                         float* grad_above,    // [count], which are equal where a row lies beyond the image
                         float* grad_here,     // [count]
                         float* grad_below) {  // [count]
  for (int64_t x = 0; x < count; ++x) {
    const float lowest = lower(lower(above[x], here[x]), below[x]);
    const float first = above[x] == lowest ? grad[x] : 0, rest = above[x] == lowest ? 0 : grad[x];
    const float second = here[x] == lowest ? rest : 0, third = here[x] == lowest ? 0 : rest;
    grad_above[x] -= first;
    grad_here[x] -= second;
    grad_below[x] -= third;
  }
}

// Adds the gradient of the lows of three neighbours to that of the first that has them.
inline void send_to_columns(const float* __restrict p,         // [-2, count]
                            const float* __restrict low,       // [-1, count + 1]
                            const float* __restrict grad_low,  // [-1, count + 1]
                            int64_t count,
                            float* __restrict grad) {  // [count]
  for (int64_t x = 0; x < count; ++x) {
    // This pixel may be the first of the three whose low is at its right, at itself or at its left.
    const float right = p[x] == low[x + 1] ? grad_low[x + 1] : 0;
    const float middle = p[x] == low[x] && p[x - 1] != low[x] ? grad_low[x] : 0;
    const float left = p[x - 1] != low[x - 1] && p[x - 2] != low[x - 1] ? grad_low[x - 1] : 0;
    grad[x] += right + middle + left;
  }
}

constexpr int64_t PAD = 2;  // columns beyond each border of a map's row, so that windows need no end

struct Row {
  std::vector<float> p;         // [C, PAD + W + PAD], probabilities, infinite beyond the border
  std::vector<float> low;       // [C, PAD + W + PAD], the smallest of three neighbours
  std::vector<float> grad_low;  // [C, PAD + W + PAD], backward
  std::vector<float> flaw;      // [PAD + W + PAD], NaN where probabilities are, otherwise 0
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
        next(std::max<int64_t>(first - (args.slopes ? 2 : 1), 0)),
        center(std::max<int64_t>(first - 1, 0)) {
    for (Row& row : ring) {
      row.p.resize(classes * stride, std::numeric_limits<float>::infinity());
      row.low.resize(classes * stride);
      row.grad_low.resize(args.slopes ? classes * stride : 0);
      row.flaw.resize(stride);
    }
    block.classes = classes, block.width = width;
    block.channels.resize(classes * BLOCK);
  }

  // Adds the sums of row y to `sums`, [C, 4]. Rows must be asked for one after the other, from the first on.
  void add_sums(int64_t y, double* sums) {
    make_rows(y);
    const Row &above = row(y - 1), &here = row(y), &below = row(y + 1);
    for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
      const int64_t count = std::min(BLOCK, width - x0);
      alignas(64) float b[BLOCK] = {}, weight[BLOCK];  // weight: 0 where the pixel is not known, otherwise 1, or NaN
      alignas(64) int32_t edge[BLOCK] = {};
      alignas(64) uint32_t bits[BLOCK] = {};
      std::copy_n(edges + y * width + x0, count, edge);
      std::fill(edge + count, edge + BLOCK, INSIDE);
      for (int64_t x = 0; x < count; ++x) {
        float flaws = 0;
        for (const Row* row : {&above, &here, &below})
          for (int64_t dx = -1; dx <= 1; ++dx) flaws += row->flaw[PAD + x0 + x + dx];
        weight[x] = edge[x] == UNKNOWN ? 0 : 1 + flaws;
      }
      for (int64_t c = 0; c < classes; ++c) {
        if (c % 32 == 0) std::copy_n(near_row(y, c) + x0, count, bits);
        const int64_t start = c * stride + PAD + x0;
        const float *p = here.p.data() + start, *low_above = above.low.data() + start,
                    *low_here = here.low.data() + start, *low_below = below.low.data() + start;
        for (int64_t x = 0; x < count; ++x) {
          const float lowest = lower(lower(low_above[x], low_here[x]), low_below[x]);
          b[x] = weight[x] == 0 ? 0 : (p[x] - lowest) * weight[x];
        }
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
    for (; center < std::min(y + 2, height); ++center) {
      make_rows(center);
      send_to_lows(center);
    }
    for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
      alignas(64) float dot[BLOCK] = {};  // sum_k p_k g_k
      block.count = std::min(BLOCK, width - x0), block.share = args.maps.rows.share[y];
      block.grad_first = grad_above + x0, block.grad_second = grad_below + x0;
      block.read_labels(labels + y * width + x0, args.maps.ignore_index);
      for (int64_t c = 0; c < classes; ++c) {
        const int64_t start = c * stride + PAD + x0;
        const float* p = row(y).p.data() + start;
        float* __restrict grad = block.channels.data() + c * BLOCK;
        differentiate(y, c, x0, block.count, grad);
        send_to_columns(p, row(y).low.data() + start, row(y).grad_low.data() + start, block.count, grad);
        for (int64_t x = 0; x < block.count; ++x) dot[x] += p[x] * grad[x];
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

  // Beyond the image are the rows at its border, which do not change a minimum, nor which row has it first.
  Row& row(int64_t y) { return ring[std::clamp<int64_t>(y, 0, height - 1) % 3]; }

  void make_rows(int64_t y) {
    for (; next < std::min(y + 2, height); ++next) make(row(next), next);
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
        row.flaw[PAD + x0 + x] = block.weight[x] == 0 ? 0 : 0 * scale[x];
      }
      for (int64_t c = 0; c < classes; ++c) {
        const float* exp = block.channels.data() + c * BLOCK;
        float* __restrict p = row.p.data() + c * stride + PAD + x0;
        for (int64_t x = 0; x < block.count; ++x) p[x] = block.weight[x] == 0 ? 0 : exp[x] * scale[x];
      }
    }
    for (int64_t c = 0; c < classes; ++c) {
      const float* p = row.p.data() + c * stride + PAD;
      float* __restrict low = row.low.data() + c * stride + PAD;
      for (int64_t x = 0; x < width; ++x) low[x] = lower(lower(p[x - 1], p[x]), p[x + 1]);
    }
    std::fill(row.grad_low.begin(), row.grad_low.end(), 0.0f);
  }

  // Sends the gradient of row y's minima to the lows that they are.
  void send_to_lows(int64_t y) {
    Row &above = row(y - 1), &here = row(y), &below = row(y + 1);
    for (int64_t c = 0; c < classes; ++c)
      for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
        alignas(64) float grad[BLOCK];
        const int64_t count = std::min(BLOCK, width - x0), start = c * stride + PAD + x0;
        differentiate(y, c, x0, count, grad);
        send_to_rows(above.low.data() + start, here.low.data() + start, below.low.data() + start, grad, count,
                     above.grad_low.data() + start, here.grad_low.data() + start, below.grad_low.data() + start);
      }
  }

  const Arguments& args;
  const int64_t classes, height, width, stride, words;
  const int64_t* const labels;  // [H, W]
  const int32_t* const edges;   // [H, W]
  const uint32_t* const near;   // [H, words, W]
  resize::SIMD_TARGET::Stretched logits;
  int64_t next, center;  // rows: the next to make, and the next whose minima send their gradient back
  Row ring[3];
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
