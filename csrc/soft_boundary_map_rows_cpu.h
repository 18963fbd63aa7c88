// Computes the full-resolution rows of an image, from top to bottom, in plain loops that the compiler vectorizes. Only
// as many rows of the C maps exist at a time as neighbours are apart. A row depends only on the rows around it, which
// are added in order, and not on where a thread begins. It is included once per instruction set.
//
// With p the softmax of a pixel's logits z, and r = sqrt(p) its *root*, two pixels agree by s = sum_c r_c r'_c. The
// result is 1 - e^t, where t is the sum of log s over a pixel's neighbours. A gradient g of the result gives
//   grad t = -g e^t
//   grad s = (grad t + grad t') / s, because s counts in the sums of both pixels
//   grad r_c = the sum over the neighbours of (grad s) r'_c
//   grad z_c = r_c / 2 (grad r_c - r_c sum_k r_k grad r_k), for r_c = e^(z_c / 2) / sqrt(sum_k e^z_k).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "common/elementary.h"
#include "common/resize_rows_cpu.h"

#ifndef SOFT_BOUNDARY_MAP_ROWS_CPU_H
#define SOFT_BOUNDARY_MAP_ROWS_CPU_H

namespace soft_boundary_map {

struct Arguments {
  const float* logits;  // [N, C, h, w]
  int64_t classes;
  Axis rows, columns;
  std::vector<int64_t> reach;  // [radius + 1], how far to the side neighbours are that lie so many rows apart
};

}  // namespace soft_boundary_map

#endif

namespace soft_boundary_map::SIMD_TARGET {

constexpr int64_t BLOCK = 256;  // pixels of a row at a time: their logits stay in the first caches
constexpr float TINY = std::numeric_limits<float>::min();

inline void add(const float* values,  // [count]
                int64_t count,
                float* __restrict sum) {  // [count]
  for (int64_t x = 0; x < count; ++x) sum[x] += values[x];
}

inline void add_product(const float* a,  // [count]
                        const float* b,  // [count]
                        int64_t count,
                        float* __restrict sum) {  // [count]
  for (int64_t x = 0; x < count; ++x) sum[x] += a[x] * b[x];
}

inline void logits(const float* __restrict probability,  // [rows, width]
                   int64_t rows, int64_t width, float eps,
                   float* __restrict result) {  // [rows, width]
  for (int64_t row = 0; row < rows; ++row, probability += width, result += width)
    for (int64_t x = 0; x < width; ++x) {
      const float p = probability[x] < eps ? eps : probability[x] > 1 - eps ? 1 - eps : probability[x];
      result[x] = elementary::SIMD_TARGET::log(p / (1 - p));
    }
}

struct Row {
  std::vector<float> root;                // [C, W], square roots of the probabilities
  std::vector<float> log_agreement;       // [W], forward: the sum over the neighbours so far
  std::vector<float> grad_log_agreement;  // [W], backward
  std::vector<float> grad_root;           // [C, W], backward: the sum over the neighbours so far
};

// Computes an image's rows and compares them with each other. It runs backward if it is given the result's gradient.
class Sweep {
 public:
  // `first` is the first row of image n that will be asked for.
  Sweep(const Arguments& args, int64_t n, int64_t first,
        const float* grad = nullptr,       // [N, H, W]
        const float* logarithm = nullptr)  // [N, H, W]
      : args(args),
        width(args.columns.full),
        apart(args.reach.size()),
        logits(args.columns, args.logits + n * args.classes * args.rows.size * args.columns.size, args.classes,
               args.rows.size),
        grad(grad ? grad + n * args.rows.full * width : nullptr),
        logarithm(grad ? logarithm + n * args.rows.full * width : nullptr),
        top(std::max<int64_t>(first - apart + 1, 0)),
        next(top),
        ring(apart),
        agreement((2 * args.reach[0] + 1) * width) {
    for (Row& row : ring) {
      row.root.resize(args.classes * width);
      row.log_agreement.resize(grad ? 0 : width);
      row.grad_log_agreement.resize(grad ? width : 0);
      row.grad_root.resize(grad ? args.classes * width : 0);
    }
  }

  // Returns row y, compared with all its neighbours. Rows must be asked for one after the other, from the first on.
  Row& compared(int64_t y) {
    for (; next < std::min(y + apart, args.rows.full); ++next) {
      start(row(next), next);
      for (int64_t dy = 0; dy < std::min(apart, next - top + 1); ++dy) {
        agree(row(next - dy), row(next), dy);
        grad ? differentiate(row(next - dy), row(next), dy) : add_logarithms(row(next - dy), row(next), dy);
      }
    }
    return row(y);
  }

 private:
  Row& row(int64_t y) { return ring[y % apart]; }

  void start(Row& row, int64_t y) {
    const float *above = logits.row(args.rows.before[y]), *below = logits.row(args.rows.after[y]);
    for (int64_t x = 0; x < width; x += BLOCK)
      make_roots(above + x, below + x, args.rows.share[y], std::min(BLOCK, width - x), row.root.data() + x);
    std::fill(row.log_agreement.begin(), row.log_agreement.end(), 0.0f);
    std::fill(row.grad_root.begin(), row.grad_root.end(), 0.0f);
    for (int64_t x = 0; grad && x < width; ++x)
      row.grad_log_agreement[x] = -grad[y * width + x] * elementary::SIMD_TARGET::exp(logarithm[y * width + x]);
  }

  // Each argument is a block of `count` pixels from a row.
  void make_roots(const float* above,  // [C, W]
                  const float* below,  // [C, W]
                  float share, int64_t count,
                  float* root) {  // [C, W]
    alignas(64) float largest[BLOCK], total[BLOCK];
    std::fill_n(largest, count, -INFINITY), std::fill_n(total, count, 0.0f);
    for (int64_t c = 0; c < args.classes; ++c) {
      const float *first = above + c * width, *second = below + c * width;
      float* __restrict channel = root + c * width;
      for (int64_t x = 0; x < count; ++x) {
        channel[x] = resize::SIMD_TARGET::lerp(first[x], second[x], share);
        largest[x] = channel[x] > largest[x] ? channel[x] : largest[x];
      }
    }
    for (int64_t c = 0; c < args.classes; ++c) {
      float* __restrict channel = root + c * width;
      for (int64_t x = 0; x < count; ++x) {
        channel[x] = elementary::SIMD_TARGET::exp((channel[x] - largest[x]) / 2);
        total[x] += channel[x] * channel[x];
      }
    }
    for (int64_t x = 0; x < count; ++x) total[x] = std::sqrt(total[x]);
    for (int64_t c = 0; c < args.classes; ++c) {
      float* __restrict channel = root + c * width;
      for (int64_t x = 0; x < count; ++x) channel[x] /= total[x];
    }
  }

  // Calls f(the first pixel here, the first one there, how many pairs, their place in `agreement`) for each dx.
  template <class F> void for_pairs(int64_t dy, F f) {
    const int64_t reach = args.reach[dy];
    for (int64_t dx = dy ? -reach : 1; dx <= reach; ++dx)  // in its own row, a pixel meets only those to its right
      f(std::max<int64_t>(-dx, 0), std::max<int64_t>(dx, 0), width - std::abs(dx),
        agreement.data() + (dx + reach) * width);
  }

  void agree(const Row& here, const Row& there, int64_t dy) {
    std::fill(agreement.begin(), agreement.end(), 0.0f);
    for (int64_t c = 0; c < args.classes; ++c) {
      const float *a = here.root.data() + c * width, *b = there.root.data() + c * width;
      for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, float* sum) { add_product(a + x, b + u, count, sum); });
    }
  }

  void add_logarithms(Row& here, Row& there, int64_t dy) {
    for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, float* __restrict log_agreement) {
      for (int64_t i = 0; i < count; ++i) {
        const float positive = log_agreement[i] < TINY ? TINY : log_agreement[i];
        log_agreement[i] = elementary::SIMD_TARGET::log(positive > 1 ? 1 : positive);  // rounding can lift it above 1
      }
      add(log_agreement, count, here.log_agreement.data() + x);
      add(log_agreement, count, there.log_agreement.data() + u);
    });
  }

  void differentiate(Row& here, Row& there, int64_t dy) {
    for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, float* __restrict grad_agreement) {
      const float *a = here.grad_log_agreement.data() + x, *b = there.grad_log_agreement.data() + u;
      for (int64_t i = 0; i < count; ++i)
        grad_agreement[i] = grad_agreement[i] < TINY ? 0 : (a[i] + b[i]) / grad_agreement[i];
    });
    for (int64_t c = 0; c < args.classes; ++c) {
      const float *a = here.root.data() + c * width, *b = there.root.data() + c * width;
      float *grad_a = here.grad_root.data() + c * width, *grad_b = there.grad_root.data() + c * width;
      for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, const float* grad_agreement) {
        add_product(grad_agreement, b + u, count, grad_a + x);
        add_product(grad_agreement, a + x, count, grad_b + u);
      });
    }
  }

  const Arguments& args;
  const int64_t width, apart;
  resize::SIMD_TARGET::Stretched logits;
  const float *const grad, *const logarithm;  // [H, W]
  const int64_t top;
  int64_t next;
  std::vector<Row> ring;         // the last `apart` rows
  std::vector<float> agreement;  // [dx, W], of the pixels of two rows; then its logarithm or gradient
};

// Computes the rows [begin, end) of all images.
inline void forward_rows(const Arguments& args,
                         float* result,     // [N, H, W]
                         float* logarithm,  // [N, H, W], log(1 - result)
                         int64_t begin, int64_t end) {
  const int64_t height = args.rows.full, width = args.columns.full;
  for (int64_t i = begin; i < end;) {
    const int64_t n = i / height, last = std::min(end, (n + 1) * height);
    Sweep sweep(args, n, i - n * height);
    for (; i < last; ++i) {
      const float* agreement = sweep.compared(i - n * height).log_agreement.data();
      float* __restrict chance = result + i * width;
      for (int64_t x = 0; x < width; ++x) {
        const float t = agreement[x];
        // This is 1 - e^t, by its series where the difference would cancel.
        chance[x] =
            t > -0.03f ? -t * (1 + t * (1 / 2.0f + t * (1 / 6.0f + t / 24))) : 1 - elementary::SIMD_TARGET::exp(t);
      }
      std::copy_n(agreement, width, logarithm + i * width);
    }
  }
}

// Turns a row's gradient by the roots into the gradient by its logits, and adds it to the gradients of the two rows
// that it lies between.
inline void send_back(const Arguments& args, Row& row, float share,
                      float* grad_above,    // [C, W]
                      float* grad_below) {  // [C, W]
  const int64_t width = args.columns.full;
  for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
    const int64_t count = std::min(BLOCK, width - x0);
    alignas(64) float dot[BLOCK] = {}, norm[BLOCK] = {};
    for (int64_t c = 0; c < args.classes; ++c) {
      const float *root = row.root.data() + c * width + x0, *grad_root = row.grad_root.data() + c * width + x0;
      add_product(root, grad_root, count, dot), add_product(root, root, count, norm);
    }
    // The norm differs from 1 only by rounding, which would count where the prediction is sure.
    for (int64_t x = 0; x < count; ++x) dot[x] /= norm[x];
    for (int64_t c = 0; c < args.classes; ++c) {
      const int64_t start = c * width + x0;
      const float* root = row.root.data() + start;
      float* __restrict grad = row.grad_root.data() + start;  // becomes the gradient by the logits
      float* __restrict first = grad_above + start;
      float* __restrict second = grad_below + start;
      for (int64_t x = 0; x < count; ++x) {
        grad[x] = root[x] / 2 * (grad[x] - root[x] * dot[x]);
        first[x] += (1 - share) * grad[x];
      }
      for (int64_t x = 0; share != 0 && x < count; ++x) second[x] += share * grad[x];
    }
  }
}

// Computes the rows [begin, end) of the gradients of all images' logits.
inline void backward_rows(const Arguments& args,
                          const float* grad,       // [N, H, W]
                          const float* logarithm,  // [N, H, W]
                          float* grad_logits,      // [N, C, h, w], zero
                          int64_t begin, int64_t end) {
  resize::SIMD_TARGET::gather_rows(
      args.rows, args.columns, args.classes, grad_logits, begin, end,
      [&](int64_t n, int64_t first) { return Sweep(args, n, first, grad, logarithm); },
      [&](Sweep& sweep, int64_t y, float* above, float* below) {
        send_back(args, sweep.compared(y), args.rows.share[y], above, below);
      });
}

}  // namespace soft_boundary_map::SIMD_TARGET
