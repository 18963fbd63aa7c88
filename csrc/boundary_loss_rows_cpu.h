// The losses and gradients of full-resolution rows, in plain loops that the compiler vectorizes. Included once per
// instruction set.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/elementary.h"
#include "common/resize_rows_cpu.h"

#ifndef BOUNDARY_LOSS_ROWS_CPU_H
#define BOUNDARY_LOSS_ROWS_CPU_H

namespace boundary_loss {

struct Arguments {
  const float* logits;    // [N, h, w]
  const uint8_t* target;  // [N, H, W]
  float* grad_logits[2];  // [N, h, w] each, zero: from the positives' and from the negatives' losses; or null
  double* sums;           // [N, h, 4], zero: losses of positives and of negatives, then how many there are
  Axis rows, columns;
};

}  // namespace boundary_loss

#endif

namespace boundary_loss::SIMD_TARGET {

using elementary::SIMD_TARGET::sigmoids;
using resize::SIMD_TARGET::add_adjoint;
using resize::SIMD_TARGET::lerp;
using resize::SIMD_TARGET::stretch;

// What a cell's positive pixels, or its negative ones, contribute.
struct Side {
  std::vector<float> losses;                   // [W], of the current row
  std::vector<float> grad_first, grad_second;  // [W], of the logits' two rows, at full width
};

// A positive pixel of logit z loses log(1 + e^-z), whose derivative is -sigmoid(-z); a negative one loses log(1 + e^z),
// whose derivative is sigmoid(z). As z = (1 - share) first + share second, both rows get their shares of these.
inline void add_row(const uint8_t* __restrict target,  // [W]
                    const float* __restrict first,     // [W]
                    const float* __restrict second,    // [W]
                    float share, int64_t width, Side& positives, Side& negatives,
                    double* sums) {  // [4]
  float* __restrict positive_losses = positives.losses.data();
  float* __restrict negative_losses = negatives.losses.data();
  float* __restrict positive_first = positives.grad_first.data();
  float* __restrict negative_first = negatives.grad_first.data();
  float* __restrict positive_second = positives.grad_second.data();
  float* __restrict negative_second = negatives.grad_second.data();
  for (int64_t x = 0; x < width; ++x) {
    const bool positive = target[x] == 1, negative = target[x] == 0;
    const float logit = lerp(first[x], second[x], share);
    const auto [chance, doubt, log1p] = sigmoids(logit);
    positive_losses[x] = positive ? (logit < 0 ? -logit : 0) + log1p : 0;
    negative_losses[x] = negative ? (logit > 0 ? logit : 0) + log1p : 0;
    const float grad_positive = positive ? -doubt : 0, grad_negative = negative ? chance : 0;
    positive_first[x] += (1 - share) * grad_positive;
    negative_first[x] += (1 - share) * grad_negative;
    positive_second[x] += share == 0 ? 0 : share * grad_positive;  // NaN does not count there
    negative_second[x] += share == 0 ? 0 : share * grad_negative;
  }
  int64_t count[2] = {};
  for (int64_t x = 0; x < width; ++x) count[0] += target[x] == 1, count[1] += target[x] == 0;
  for (int64_t x = 0; x < width; ++x) sums[0] += positive_losses[x], sums[1] += negative_losses[x];
  sums[2] += static_cast<double>(count[0]), sums[3] += static_cast<double>(count[1]);
}

// Adds the cells [begin, end) of a parity (see for_cells).
inline void add_cells(const Arguments& args, int64_t begin, int64_t end, int64_t parity) {
  const int64_t height = args.rows.size, low = args.columns.size, width = args.columns.full;
  std::vector<float> first(width), second(width);
  Side sides[2];
  for (Side& side : sides)
    for (auto* row : {&side.losses, &side.grad_first, &side.grad_second}) row->resize(width);
  for (int64_t i = begin; i < end; ++i) {
    const auto [n, y, below, top, bottom, mixed] = resize::SIMD_TARGET::cell(args.rows, i, parity);
    stretch(args.columns, args.logits + (n * height + y) * low, first.data());
    stretch(args.columns, args.logits + (n * height + below) * low, second.data());
    for (Side& side : sides)
      for (auto* row : {&side.grad_first, &side.grad_second}) std::fill(row->begin(), row->end(), 0.0f);
    for (int64_t row = top; row < bottom; ++row)
      add_row(args.target + (n * args.rows.full + row) * width, first.data(), second.data(), args.rows.share[row],
              width, sides[0], sides[1], args.sums + 4 * (n * height + y));
    for (int64_t side = 0; side < 2 && args.grad_logits[side]; ++side) {
      add_adjoint(args.columns, sides[side].grad_first.data(), args.grad_logits[side] + (n * height + y) * low);
      add_adjoint(args.columns, sides[side].grad_second.data(), args.grad_logits[side] + (n * height + below) * low);
    }
  }
}

}  // namespace boundary_loss::SIMD_TARGET
