// The sums and gradients of blocks of pixels, in plain loops that the compiler vectorizes. Included once per
// instruction set.
//
// With p the softmax of a pixel's logits z, and y the one-hot label, a class has the sums I = sum p y, P = sum p and
// Y = sum y over the valid pixels. The derivative g_c by a pixel's p_c takes two values, one where y_c = 0 and one
// where y_c = 1: these are the *slopes*, which depend on the sums of the whole batch. That by z_c is p_c (g_c - sum_k
// p_k g_k).

#include <cstdint>

#include "common/softmax_rows_cpu.h"

#ifndef DICE_LOSS_ROWS_CPU_H
#define DICE_LOSS_ROWS_CPU_H

namespace dice_loss {

struct Arguments {
  softmax::Maps maps;
  double* sums;         // forward: [N, h, C, 3], zero: I, P and Y
  const float* slopes;  // backward: [2, C]: of pixels with y = 0, and with y = 1
};

}  // namespace dice_loss

#endif

namespace dice_loss::SIMD_TARGET {

using softmax::SIMD_TARGET::Block;
using softmax::SIMD_TARGET::BLOCK;
using softmax::SIMD_TARGET::LANES;
using softmax::SIMD_TARGET::total;

inline void add_sums(Block& block, double* sums) {  // sums: [C, 3]
  alignas(64) float scale[BLOCK];
  for (int64_t x = 0; x < block.count; ++x) scale[x] = block.weight[x] / block.total[x];
  for (int64_t x = block.count; x % LANES; ++x) block.weight[x] = 0, block.label[x] = -1;
  for (int64_t c = 0; c < block.classes; ++c) {
    const float* __restrict channel = block.channels.data() + c * BLOCK;
    float both[LANES] = {}, predicted[LANES] = {}, truth[LANES] = {};
    for (int64_t x = 0; x < block.count; x += LANES)
      for (int64_t i = 0; i < LANES; ++i) {
        const float p = channel[x + i] * scale[x + i], valid = block.weight[x + i] == 0 ? 0 : p;
        const float mine = block.label[x + i] == c;
        predicted[i] += valid;
        both[i] += valid * mine;
        truth[i] += mine;
      }
    sums[3 * c] += total(both), sums[3 * c + 1] += total(predicted), sums[3 * c + 2] += total(truth);
  }
}

inline void add_gradients(Block& block, const float* slopes) {
  alignas(64) float scale[BLOCK], dot[BLOCK] = {};  // dot: sum_k p_k g_k
  for (int64_t c = 0; c < block.classes; ++c) {
    const float others = slopes[c], own = slopes[block.classes + c];
    const float* __restrict channel = block.channels.data() + c * BLOCK;
    for (int64_t x = 0; x < block.count; ++x) dot[x] += (block.label[x] == c ? own : others) * channel[x];
  }
  for (int64_t x = 0; x < block.count; ++x) scale[x] = block.weight[x] / block.total[x], dot[x] *= scale[x];
  for (int64_t c = 0; c < block.classes; ++c)
    block.send_back(c, [&, others = slopes[c], own = slopes[block.classes + c]](int64_t x, float exp) {
      return exp * scale[x] * ((block.label[x] == c ? own : others) - dot[x]);
    });
}

// Both take the cells [begin, end) of a parity (see for_cells).
inline void forward_cells(const Arguments& args, int64_t begin, int64_t end, int64_t parity) {
  softmax::SIMD_TARGET::for_blocks(args.maps, begin, end, parity, [&](Block& block, int64_t row) {
    add_sums(block, args.sums + 3 * block.classes * row);
  });
}

inline void backward_cells(const Arguments& args, int64_t begin, int64_t end, int64_t parity) {
  softmax::SIMD_TARGET::for_blocks(args.maps, begin, end, parity,
                                   [&](Block& block, int64_t) { add_gradients(block, args.slopes); });
}

}  // namespace dice_loss::SIMD_TARGET
