// The softmax of upsampled logits, and the way of a gradient back to the logits, in plain loops that the compiler
// vectorizes. The pixels are visited a block at a time, so no full-resolution map of C channels exists. It is included
// once per instruction set.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/elementary.h"
#include "common/resize_rows_cpu.h"
#include "common/softmax.h"

namespace softmax::SIMD_TARGET {

constexpr int64_t BLOCK = 256;  // pixels of a row at a time: their logits stay in the first caches
constexpr int64_t LANES = 16;   // partial sums, which the compiler keeps in vectors
static_assert(BLOCK % LANES == 0);

inline float total(float (&sums)[LANES]) {
  for (int64_t half = LANES / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

// Each logit is a mix (1 - share) first + share second of two rows, which get these shares of its gradient. Logits are
// shifted by the largest, which changes no probability.
struct Block {
  int64_t classes, width, count;                    // width: of a full-resolution row
  float share;                                      // of the second row
  const float *first, *second;                      // [C, W], the rows' logits from the block's first pixel on
  float *grad_first, *grad_second;                  // [C, W], their gradients
  alignas(64) int32_t label[BLOCK];                 // -1 where it is void or no class
  alignas(64) float weight[BLOCK];                  // 1; for void 0, and for what is no class NaN
  alignas(64) float largest[BLOCK], chosen[BLOCK];  // the largest logit, and that of the label
  alignas(64) float total[BLOCK];                   // of exp(logit - largest)
  std::vector<float> channels;                      // [C, BLOCK]: logits, then exp(logit - largest), then gradients

  void read_labels(const int64_t* __restrict labels,  // [count]
                   int64_t ignore_index) {
    for (int64_t x = 0; x < count; ++x) {
      const int64_t id = labels[x];
      const bool known = id >= 0 && id < classes && id != ignore_index;
      label[x] = known ? static_cast<int32_t>(id) : -1;
      weight[x] = known ? 1 : id == ignore_index ? 0 : NAN;  // a label that is no class must not pass in silence
    }
  }

  void mix_logits() {
    std::fill_n(largest, count, -INFINITY), std::fill_n(chosen, count, 0.0f);
    for (int64_t c = 0; c < classes; ++c) {
      const float* __restrict a = first + c * width;
      const float* __restrict b = second + c * width;
      float* __restrict logits = channels.data() + c * BLOCK;
      for (int64_t x = 0; x < count; ++x) {
        const float logit = resize::SIMD_TARGET::lerp(a[x], b[x], share);
        logits[x] = logit;
        largest[x] = logit > largest[x] ? logit : largest[x];
        chosen[x] = label[x] == c ? logit : chosen[x];
      }
    }
  }

  void exponentiate() {
    std::fill_n(total, count, 0.0f);
    for (int64_t c = 0; c < classes; ++c) {
      float* __restrict channel = channels.data() + c * BLOCK;
      for (int64_t x = 0; x < count; ++x) {
        channel[x] = elementary::SIMD_TARGET::exp(channel[x] - largest[x]);
        total[x] += channel[x];
      }
    }
  }

  // Adds the gradient `grad(x, exp(logit - largest))` of class c to those of the two rows. Void gets none.
  template <class F> void send_back(int64_t c, F grad) {
    const float part = share;  // what is written below cannot change it, so that the compiler vectorizes
    float* __restrict channel = channels.data() + c * BLOCK;
    float* __restrict to_first = grad_first + c * width;
    float* __restrict to_second = grad_second + c * width;
    for (int64_t x = 0; x < count; ++x) {
      const float sent = grad(x, channel[x]);
      channel[x] = weight[x] == 0 ? 0 : sent;
      to_first[x] += (1 - part) * channel[x];
    }
    for (int64_t x = 0; part != 0 && x < count; ++x) to_second[x] += part * channel[x];
  }
};

// Calls `visit(block, row)` for all pixels of the cells [begin, end) of a parity (see for_cells). `row` is the cell's
// row of logits, counted over all images.
template <class F> void for_blocks(const Maps& maps, int64_t begin, int64_t end, int64_t parity, F visit) {
  const int64_t height = maps.rows.size, low = maps.columns.size, width = maps.columns.full;
  std::vector<float> first(maps.classes * width), second(first), grad_first(first), grad_second(first);
  Block block;
  block.classes = maps.classes, block.width = width;
  block.channels.resize(maps.classes * BLOCK);
  for (int64_t i = begin; i < end; ++i) {
    const auto [n, y, below, top, bottom, mixed] = resize::SIMD_TARGET::cell(maps.rows, i, parity);
    if (top == bottom) continue;
    for (int64_t c = 0; c < maps.classes; ++c) {
      const float* channel = maps.logits + (n * maps.classes + c) * height * low;
      resize::SIMD_TARGET::stretch(maps.columns, channel + y * low, first.data() + c * width);
      if (mixed) resize::SIMD_TARGET::stretch(maps.columns, channel + below * low, second.data() + c * width);
    }
    std::fill(grad_first.begin(), grad_first.end(), 0.0f), std::fill(grad_second.begin(), grad_second.end(), 0.0f);
    for (int64_t row = top; row < bottom; ++row)
      for (int64_t x = 0; x < width; x += BLOCK) {
        block.count = std::min(BLOCK, width - x), block.share = maps.rows.share[row];
        block.first = first.data() + x, block.second = second.data() + x;
        block.grad_first = grad_first.data() + x, block.grad_second = grad_second.data() + x;
        block.read_labels(maps.labels + (n * maps.rows.full + row) * width + x, maps.ignore_index);
        block.mix_logits();
        block.exponentiate();
        visit(block, n * height + y);
      }
    for (int64_t c = 0; maps.grad_logits && c < maps.classes; ++c) {
      float* channel = maps.grad_logits + (n * maps.classes + c) * height * low;
      resize::SIMD_TARGET::add_adjoint(maps.columns, grad_first.data() + c * width, channel + y * low);
      if (mixed) resize::SIMD_TARGET::add_adjoint(maps.columns, grad_second.data() + c * width, channel + below * low);
    }
  }
}

}  // namespace softmax::SIMD_TARGET
