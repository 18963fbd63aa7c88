// The losses and gradients of full-resolution rows, in plain loops that the compiler vectorizes. Included once per
// instruction set.
//
// A pixel of label l and weight w loses -w log p_l = w (log sum_c e^z_c - z_l), where p is the softmax of its logits z.
// The derivative by z_c is w (p_c - [c = l]). Each z is a mix (1 - share) first + share second of two rows of logits,
// which get these shares of the derivative. Logits are shifted by the largest, which changes neither.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/elementary.h"
#include "common/resize_rows_cpu.h"

#ifndef SEGMENTATION_LOSS_ROWS_CPU_H
#define SEGMENTATION_LOSS_ROWS_CPU_H

namespace segmentation_loss {

struct Arguments {
  const float* logits;         // [N, C, h, w]
  const int64_t* labels;       // [N, H, W]
  const float* class_weights;  // [C], or null
  float* grad_logits;          // [N, C, h, w], zero; or null: not asked for
  double* sums;                // [N, h, 2], zero: the losses and the weights
  int64_t classes, ignore_index;
  Axis rows, columns;
};

}  // namespace segmentation_loss

#endif

namespace segmentation_loss::SIMD_TARGET {

using elementary::SIMD_TARGET::exp;
using elementary::SIMD_TARGET::log;
using resize::SIMD_TARGET::add_adjoint;
using resize::SIMD_TARGET::lerp;
using resize::SIMD_TARGET::stretch;

constexpr int64_t BLOCK = 256;  // pixels of a row at a time: their logits stay in the first caches

// The two rows of logits that a cell lies between, at full width, and their gradients.
struct Cell {
  std::vector<float> first, second, grad_first, grad_second;  // [C, W]
};

struct Block {
  alignas(64) int32_t label[BLOCK];
  alignas(64) float weight[BLOCK];
  alignas(64) float largest[BLOCK], chosen[BLOCK];  // the largest logit, and that of the label
  alignas(64) float total[BLOCK];                   // of exp(logit - largest)
  std::vector<float> channels;                      // [C, BLOCK]: logits, then exp(logit - largest), then gradients
};

inline void read_labels(const Arguments& args, const int64_t* __restrict labels,  // [count]
                        int64_t count, Block& block) {
  for (int64_t x = 0; x < count; ++x) {
    const int64_t id = labels[x];
    const bool known = id >= 0 && id < args.classes;
    block.label[x] = known ? static_cast<int32_t>(id) : 0;
    block.weight[x] = id == args.ignore_index       ? 0
                      : known && args.class_weights ? args.class_weights[id]
                      : known                       ? 1
                                                    : NAN;  // a label that is no class must not pass in silence
  }
}

inline void mix_logits(const Arguments& args, const Cell& cell, float share, int64_t x0, int64_t count, Block& block) {
  std::fill_n(block.largest, count, -INFINITY), std::fill_n(block.chosen, count, 0.0f);
  for (int64_t c = 0; c < args.classes; ++c) {
    const float* __restrict first = cell.first.data() + c * args.columns.full + x0;
    const float* __restrict second = cell.second.data() + c * args.columns.full + x0;
    float* __restrict logits = block.channels.data() + c * BLOCK;
    for (int64_t x = 0; x < count; ++x) {
      const float logit = lerp(first[x], second[x], share);
      logits[x] = logit;
      block.largest[x] = logit > block.largest[x] ? logit : block.largest[x];
      block.chosen[x] = block.label[x] == c ? logit : block.chosen[x];
    }
  }
}

inline void exponentiate(const Arguments& args, int64_t count, Block& block) {
  std::fill_n(block.total, count, 0.0f);
  for (int64_t c = 0; c < args.classes; ++c) {
    float* __restrict channel = block.channels.data() + c * BLOCK;
    for (int64_t x = 0; x < count; ++x) {
      channel[x] = exp(channel[x] - block.largest[x]);
      block.total[x] += channel[x];
    }
  }
}

inline void add_losses(const Block& block, int64_t count, double* sums) {  // sums: [2]
  alignas(64) float losses[BLOCK];
  for (int64_t x = 0; x < count; ++x) {
    const float loss = log(block.total[x]) - (block.chosen[x] - block.largest[x]);
    losses[x] = block.weight[x] == 0 ? 0 : block.weight[x] * loss;  // void counts for nothing, whatever its logits
  }
  for (int64_t x = 0; x < count; ++x) sums[0] += losses[x], sums[1] += block.weight[x];
}

inline void add_gradients(const Arguments& args, float share, int64_t x0, int64_t count, Block& block, Cell& cell) {
  alignas(64) float scale[BLOCK];
  for (int64_t x = 0; x < count; ++x) scale[x] = block.weight[x] / block.total[x];
  for (int64_t c = 0; c < args.classes; ++c) {
    float* __restrict channel = block.channels.data() + c * BLOCK;
    float* __restrict grad_first = cell.grad_first.data() + c * args.columns.full + x0;
    float* __restrict grad_second = cell.grad_second.data() + c * args.columns.full + x0;
    for (int64_t x = 0; x < count; ++x) {
      const float grad = channel[x] * scale[x] - (block.label[x] == c ? block.weight[x] : 0);
      channel[x] = block.weight[x] == 0 ? 0 : grad;
      grad_first[x] += (1 - share) * channel[x];
    }
    for (int64_t x = 0; share != 0 && x < count; ++x) grad_second[x] += share * channel[x];
  }
}

inline void add_row(const Arguments& args, const int64_t* labels,  // [W]
                    float share, Block& block, Cell& cell,
                    double* sums) {  // [2]
  for (int64_t x = 0; x < args.columns.full; x += BLOCK) {
    const int64_t count = std::min(BLOCK, args.columns.full - x);
    read_labels(args, labels + x, count, block);
    mix_logits(args, cell, share, x, count, block);
    exponentiate(args, count, block);
    add_losses(block, count, sums);
    if (args.grad_logits) add_gradients(args, share, x, count, block, cell);
  }
}

// Adds the cells [begin, end) of a parity (see for_cells).
inline void add_cells(const Arguments& args, int64_t begin, int64_t end, int64_t parity) {
  const int64_t height = args.rows.size, low = args.columns.size, width = args.columns.full;
  Block block;
  block.channels.resize(args.classes * BLOCK);
  Cell cell;
  for (auto* maps : {&cell.first, &cell.second, &cell.grad_first, &cell.grad_second})
    maps->resize(args.classes * width);
  for (int64_t i = begin; i < end; ++i) {
    const auto [n, y, below, top, bottom, mixed] = resize::SIMD_TARGET::cell(args.rows, i, parity);
    if (top == bottom) continue;
    for (int64_t c = 0; c < args.classes; ++c) {
      const float* channel = args.logits + (n * args.classes + c) * height * low;
      stretch(args.columns, channel + y * low, cell.first.data() + c * width);
      if (mixed) stretch(args.columns, channel + below * low, cell.second.data() + c * width);
    }
    std::fill(cell.grad_first.begin(), cell.grad_first.end(), 0.0f);
    std::fill(cell.grad_second.begin(), cell.grad_second.end(), 0.0f);
    for (int64_t row = top; row < bottom; ++row)
      add_row(args, args.labels + (n * args.rows.full + row) * width, args.rows.share[row], block, cell,
              args.sums + 2 * (n * height + y));
    for (int64_t c = 0; args.grad_logits && c < args.classes; ++c) {
      float* channel = args.grad_logits + (n * args.classes + c) * height * low;
      add_adjoint(args.columns, cell.grad_first.data() + c * width, channel + y * low);
      if (mixed) add_adjoint(args.columns, cell.grad_second.data() + c * width, channel + below * low);
    }
  }
}

}  // namespace segmentation_loss::SIMD_TARGET
