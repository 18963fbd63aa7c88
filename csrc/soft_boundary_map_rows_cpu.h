// The full-resolution rows of an image, from top to bottom, for one instruction set: written for the compiler's
// vectoriser. Of C maps only as many rows exist at a time as neighbours are apart. What a row becomes depends on
// nothing but the rows around it, added in their order: not on where a thread begins.

#include "elementary.h"
#include "resize_rows_cpu.h"

namespace soft_boundary_map::SIMD_TARGET {

constexpr int64_t BLOCK = 256;  // pixels of a row at a time: their logits stay in the first caches
constexpr float TINY = std::numeric_limits<float>::min();

inline void add(const float* from, int64_t count, float* __restrict sum) {
  for (int64_t x = 0; x < count; ++x) sum[x] += from[x];
}

inline void add_product(const float* a, const float* b, int64_t count, float* __restrict sum) {
  for (int64_t x = 0; x < count; ++x) sum[x] += a[x] * b[x];
}

struct Row {
  std::vector<float> root;           // (C, W): square roots of the probabilities
  std::vector<float> log_agreement;  // (W): forward, with the neighbours so far; backward, the gradient by it
  std::vector<float> by_root;        // (C, W): backward, the gradient by the roots so far
};

// Makes an image's rows and compares them with each other: backward, if there is a gradient of the result.
class Sweep {
 public:
  Sweep(const Arguments& of, int64_t n, int64_t first, const float* grad = nullptr, const float* logarithm = nullptr)
      : of(of),
        width(of.columns.full),
        apart(of.reach.size()),
        logits(of.logits + n * of.classes * of.rows.size * of.columns.size),
        grad(grad ? grad + n * of.rows.full * width : nullptr),
        logarithm(grad ? logarithm + n * of.rows.full * width : nullptr),
        top(std::max<int64_t>(first - apart + 1, 0)),
        next(top),
        ring(apart),
        same((2 * of.reach[0] + 1) * width) {
    for (auto& row : stretched) row.resize(of.classes * width);
    for (Row& row : ring) {
      row.root.resize(of.classes * width), row.log_agreement.resize(width);
      row.by_root.resize(grad ? of.classes * width : 0);
    }
  }

  // Row y, compared with all its neighbours. To be called for one row after another, from the first on.
  Row& compared(int64_t y) {
    for (; next < std::min(y + apart, of.rows.full); ++next) {
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
    const float *above = stretched_row(of.rows.before[y]), *below = stretched_row(of.rows.after[y]);
    for (int64_t x = 0; x < width; x += BLOCK)
      make_roots(above + x, below + x, of.rows.share[y], std::min(BLOCK, width - x), row.root.data() + x);
    std::fill(row.log_agreement.begin(), row.log_agreement.end(), 0.0f);
    std::fill(row.by_root.begin(), row.by_root.end(), 0.0f);
    for (int64_t x = 0; grad && x < width; ++x)
      row.log_agreement[x] = -grad[y * width + x] * elementary::SIMD_TARGET::exp(logarithm[y * width + x]);
  }

  // The logits' row y at full width (C, W). It and the one after it are kept.
  const float* stretched_row(int64_t y) {
    float* full = stretched[y % 2].data();
    for (int64_t c = 0; held[y % 2] != y && c < of.classes; ++c)
      resize::SIMD_TARGET::stretch(of.columns, logits + (c * of.rows.size + y) * of.columns.size, full + c * width);
    held[y % 2] = y;
    return full;
  }

  void make_roots(const float* above, const float* below, float share, int64_t count, float* root) {
    alignas(64) float largest[BLOCK], total[BLOCK];
    std::fill_n(largest, count, -INFINITY), std::fill_n(total, count, 0.0f);
    for (int64_t c = 0; c < of.classes; ++c) {
      const float *first = above + c * width, *second = below + c * width;
      float* __restrict channel = root + c * width;
      for (int64_t x = 0; x < count; ++x) {
        channel[x] = resize::SIMD_TARGET::lerp(first[x], second[x], share);
        largest[x] = channel[x] > largest[x] ? channel[x] : largest[x];
      }
    }
    for (int64_t c = 0; c < of.classes; ++c) {
      float* __restrict channel = root + c * width;
      for (int64_t x = 0; x < count; ++x) {
        channel[x] = elementary::SIMD_TARGET::exp((channel[x] - largest[x]) / 2);
        total[x] += channel[x] * channel[x];
      }
    }
    for (int64_t x = 0; x < count; ++x) total[x] = std::sqrt(total[x]);
    for (int64_t c = 0; c < of.classes; ++c) {
      float* __restrict channel = root + c * width;
      for (int64_t x = 0; x < count; ++x) channel[x] /= total[x];
    }
  }

  // For each dx: f(the first pixel here, the first one there, how many pairs, where `same` has them).
  template <class F> void for_pairs(int64_t dy, F f) {
    const int64_t reach = of.reach[dy];
    for (int64_t dx = dy ? -reach : 1; dx <= reach; ++dx)  // dy = 0: one of each two opposite neighbours
      f(std::max<int64_t>(-dx, 0), std::max<int64_t>(dx, 0), width - std::abs(dx), same.data() + (dx + reach) * width);
  }

  void agree(const Row& here, const Row& there, int64_t dy) {
    std::fill(same.begin(), same.end(), 0.0f);
    for (int64_t c = 0; c < of.classes; ++c) {
      const float *a = here.root.data() + c * width, *b = there.root.data() + c * width;
      for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, float* sum) { add_product(a + x, b + u, count, sum); });
    }
  }

  void add_logarithms(Row& here, Row& there, int64_t dy) {
    for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, float* __restrict log_same) {
      for (int64_t i = 0; i < count; ++i) {
        const float positive = log_same[i] < TINY ? TINY : log_same[i];
        log_same[i] = elementary::SIMD_TARGET::log(positive > 1 ? 1 : positive);  // rounding can lift it above 1
      }
      add(log_same, count, here.log_agreement.data() + x);
      add(log_same, count, there.log_agreement.data() + u);
    });
  }

  void differentiate(Row& here, Row& there, int64_t dy) {
    for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, float* __restrict by_same) {
      const float *a = here.log_agreement.data() + x, *b = there.log_agreement.data() + u;
      for (int64_t i = 0; i < count; ++i) by_same[i] = by_same[i] < TINY ? 0 : (a[i] + b[i]) / by_same[i];
    });
    for (int64_t c = 0; c < of.classes; ++c) {
      const float *a = here.root.data() + c * width, *b = there.root.data() + c * width;
      float *by_a = here.by_root.data() + c * width, *by_b = there.by_root.data() + c * width;
      for_pairs(dy, [&](int64_t x, int64_t u, int64_t count, const float* by_same) {
        add_product(by_same, b + u, count, by_a + x);
        add_product(by_same, a + x, count, by_b + u);
      });
    }
  }

  const Arguments& of;
  const int64_t width, apart;
  const float *const logits, *const grad, *const logarithm;  // of the image
  const int64_t top;
  int64_t next, held[2] = {-1, -1};
  std::vector<float> stretched[2];
  std::vector<Row> ring;    // the last `apart` rows
  std::vector<float> same;  // (dx, W): the agreement of the pixels of two rows
};

// The rows [begin, end) of all images' results.
inline void forward_rows(const Arguments& of, float* result, float* logarithm, int64_t begin, int64_t end) {
  const int64_t height = of.rows.full, width = of.columns.full;
  for (int64_t i = begin; i < end;) {
    const int64_t n = i / height, last = std::min(end, (n + 1) * height);
    Sweep sweep(of, n, i - n * height);
    for (; i < last; ++i) {
      const float* agreement = sweep.compared(i - n * height).log_agreement.data();
      float* __restrict chance = result + i * width;
      for (int64_t x = 0; x < width; ++x) {
        const float t = agreement[x];
        // 1 - e^t, by its series where that would cancel.
        chance[x] =
            t > -0.03f ? -t * (1 + t * (1 / 2.0f + t * (1 / 6.0f + t / 24))) : 1 - elementary::SIMD_TARGET::exp(t);
      }
      std::copy_n(agreement, width, logarithm + i * width);
    }
  }
}

// Adds what a row sends back to the gradients by the two rows of logits that it lies between, at full width.
inline void send_back(const Arguments& of, Row& row, float share, float* above, float* below) {
  const int64_t width = of.columns.full;
  for (int64_t x0 = 0; x0 < width; x0 += BLOCK) {
    const int64_t count = std::min(BLOCK, width - x0);
    alignas(64) float dot[BLOCK] = {}, norm[BLOCK] = {};
    for (int64_t c = 0; c < of.classes; ++c) {
      const float *root = row.root.data() + c * width + x0, *by_root = row.by_root.data() + c * width + x0;
      add_product(root, by_root, count, dot), add_product(root, root, count, norm);
    }
    // The norm is 1 but for rounding, which would count where the prediction is sure.
    for (int64_t x = 0; x < count; ++x) dot[x] /= norm[x];
    for (int64_t c = 0; c < of.classes; ++c) {
      const int64_t at = c * width + x0;
      const float* root = row.root.data() + at;
      float* __restrict by = row.by_root.data() + at;  // becomes the gradient by the full logits
      float* __restrict first = above + at;
      float* __restrict second = below + at;
      for (int64_t x = 0; x < count; ++x) {
        by[x] = root[x] / 2 * (by[x] - root[x] * dot[x]);
        first[x] += (1 - share) * by[x];
      }
      for (int64_t x = 0; share != 0 && x < count; ++x) second[x] += share * by[x];
    }
  }
}

// The rows [begin, end) of the gradient by all images' logits.
inline void backward_rows(const Arguments& of, const float* grad, const float* logarithm, float* gradient,
                          int64_t begin, int64_t end) {
  const int64_t height = of.rows.size, low = of.columns.size, width = of.columns.full;
  std::vector<float> full[2];  // of the rows that the current cell lies between
  for (auto& row : full) row.resize(of.classes * width);
  for (int64_t i = begin; i < end;) {
    const int64_t n = i / height, first = i - n * height, last = std::min(end - n * height, height);
    int64_t cell = std::max<int64_t>(first - 1, 0);
    Sweep sweep(of, n, of.rows.cell[cell], grad, logarithm);
    for (auto& row : full) std::fill(row.begin(), row.end(), 0.0f);
    for (; cell < last; ++cell) {
      std::vector<float>&above = full[cell % 2], &below = full[(cell + 1) % 2];
      for (int64_t y = of.rows.cell[cell]; y < of.rows.cell[cell + 1]; ++y)
        send_back(of, sweep.compared(y), of.rows.share[y], above.data(), below.data());
      for (int64_t c = 0; cell >= first && c < of.classes; ++c)
        resize::SIMD_TARGET::add_adjoint(of.columns, above.data() + c * width,
                                         gradient + ((n * of.classes + c) * height + cell) * low);
      std::fill(above.begin(), above.end(), 0.0f);
    }
    i = n * height + last;
  }
}

}  // namespace soft_boundary_map::SIMD_TARGET
