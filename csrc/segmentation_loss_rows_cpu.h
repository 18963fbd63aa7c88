// The losses and gradients of blocks of pixels, in plain loops that the compiler vectorizes. Included once per
// instruction set.
//
// A pixel of label l and weight w loses -w log p_l = w (log sum_c e^z_c - z_l), where p is the softmax of its logits z.
// The derivative by z_c is w (p_c - [c = l]).

#include <cstdint>

#include "common/softmax_rows_cpu.h"

#ifndef SEGMENTATION_LOSS_ROWS_CPU_H
#define SEGMENTATION_LOSS_ROWS_CPU_H

namespace segmentation_loss {

struct Arguments {
  softmax::Maps maps;
  const float* class_weights;  // [C], or null
  double* sums;                // [N, h, 2], zero: the losses and the weights
};

}  // namespace segmentation_loss

#endif

namespace segmentation_loss::SIMD_TARGET {

using softmax::SIMD_TARGET::Block;
using softmax::SIMD_TARGET::BLOCK;

inline void weigh(const float* class_weights, Block& block) {
  for (int64_t x = 0; x < block.count; ++x)
    if (block.label[x] >= 0) block.weight[x] = class_weights[block.label[x]];
}

inline void add_losses(const Block& block, double* sums) {  // sums: [2]
  alignas(64) float losses[BLOCK];
  for (int64_t x = 0; x < block.count; ++x) {
    const float loss = elementary::SIMD_TARGET::log(block.total[x]) - (block.chosen[x] - block.largest[x]);
    losses[x] = block.weight[x] == 0 ? 0 : loss;  // void counts for nothing, whatever its logits
  }
  for (int64_t x = 0; x < block.count; ++x) {
    const double weight = block.weight[x];  // in float, the product of large numbers would be infinite
    sums[0] += weight * losses[x], sums[1] += weight;
  }
}

inline void add_gradients(Block& block) {
  alignas(64) float scale[BLOCK];
  for (int64_t x = 0; x < block.count; ++x) scale[x] = block.weight[x] / block.total[x];
  for (int64_t c = 0; c < block.classes; ++c)
    block.send_back(c,
                    [&](int64_t x, float exp) { return exp * scale[x] - (block.label[x] == c ? block.weight[x] : 0); });
}

// Adds the cells [begin, end) of a parity (see for_cells).
inline void add_cells(const Arguments& args, int64_t begin, int64_t end, int64_t parity) {
  softmax::SIMD_TARGET::for_blocks(args.maps, begin, end, parity, [&](Block& block, int64_t row) {
    if (args.class_weights) weigh(args.class_weights, block);
    add_losses(block, args.sums + 2 * row);
    if (args.maps.grad_logits) add_gradients(block);
  });
}

}  // namespace segmentation_loss::SIMD_TARGET
