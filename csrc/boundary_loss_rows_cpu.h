// The full-resolution rows of some cells, for one instruction set: written for the compiler's vectoriser.

#include "elementary.h"
#include "resize_rows_cpu.h"

namespace boundary_loss::SIMD_TARGET {

using elementary::SIMD_TARGET::sigmoids;
using resize::SIMD_TARGET::add_adjoint;
using resize::SIMD_TARGET::lerp;
using resize::SIMD_TARGET::stretch;

// Of positive and of negative pixels: losses of a row, and what a cell's rows send back to its first and second row.
struct Side {
  std::vector<float> losses, to_first, to_second;
};

inline void add_row(const uint8_t* __restrict target, const float* __restrict first, const float* __restrict second,
                    float share, int64_t width, Side& positives, Side& negatives, double* sums) {
  float* __restrict positive_losses = positives.losses.data();
  float* __restrict negative_losses = negatives.losses.data();
  float* __restrict positive_first = positives.to_first.data();
  float* __restrict negative_first = negatives.to_first.data();
  float* __restrict positive_second = positives.to_second.data();
  float* __restrict negative_second = negatives.to_second.data();
  for (int64_t x = 0; x < width; ++x) {
    const bool positive = target[x] == 1, negative = target[x] == 0;
    const float logit = lerp(first[x], second[x], share);
    const auto of = sigmoids(logit);
    positive_losses[x] = positive ? (logit < 0 ? -logit : 0) + of.log1p : 0;
    negative_losses[x] = negative ? (logit > 0 ? logit : 0) + of.log1p : 0;
    const float positive_error = positive ? -of.doubt : 0, negative_error = negative ? of.chance : 0;
    positive_first[x] += (1 - share) * positive_error;
    negative_first[x] += (1 - share) * negative_error;
    positive_second[x] += share * positive_error;
    negative_second[x] += share * negative_error;
  }
  int64_t count[2] = {};
  for (int64_t x = 0; x < width; ++x) count[0] += target[x] == 1, count[1] += target[x] == 0;
  for (int64_t x = 0; x < width; ++x) sums[0] += positive_losses[x], sums[1] += negative_losses[x];
  sums[2] += static_cast<double>(count[0]), sums[3] += static_cast<double>(count[1]);
}

// The cells [begin, end), see for_cells.
inline void rows(const Arguments& of, int64_t begin, int64_t end, int64_t parity) {
  const int64_t height = of.rows.size, low = of.columns.size, width = of.columns.full;
  std::vector<float> first(width), second(width);
  Side sides[2];
  for (Side& side : sides)
    for (auto* row : {&side.losses, &side.to_first, &side.to_second}) row->resize(width);
  for (int64_t i = begin; i < end; ++i) {
    const auto [n, y, below, top, bottom, mixed] = resize::SIMD_TARGET::cell(of.rows, i, parity);
    stretch(of.columns, of.logits + (n * height + y) * low, first.data());
    stretch(of.columns, of.logits + (n * height + below) * low, second.data());
    for (Side& side : sides)
      for (auto* row : {&side.to_first, &side.to_second}) std::fill(row->begin(), row->end(), 0.0f);
    for (int64_t row = top; row < bottom; ++row)
      add_row(of.target + (n * of.rows.full + row) * width, first.data(), second.data(), of.rows.share[row], width,
              sides[0], sides[1], of.sums + 4 * (n * height + y));
    for (int64_t side = 0; side < 2 && of.gradient[side]; ++side) {
      add_adjoint(of.columns, sides[side].to_first.data(), of.gradient[side] + (n * height + y) * low);
      add_adjoint(of.columns, sides[side].to_second.data(), of.gradient[side] + (n * height + below) * low);
    }
  }
}

}  // namespace boundary_loss::SIMD_TARGET
