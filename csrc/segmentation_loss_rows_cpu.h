// The full-resolution rows of some cells, for one instruction set: written for the compiler's vectoriser.

#include "elementary.h"
#include "resize_rows_cpu.h"

namespace segmentation_loss::SIMD_TARGET {

constexpr int64_t BLOCK = 256;  // pixels of a row at a time: their logits stay in the first caches

using elementary::SIMD_TARGET::exp;
using elementary::SIMD_TARGET::log;
using resize::SIMD_TARGET::add_adjoint;
using resize::SIMD_TARGET::lerp;
using resize::SIMD_TARGET::stretch;

// What a cell's rows are mixed from, and what they send back: (C, W) each.
struct Cell {
  std::vector<float> first, second, to_first, to_second;
};

// The loss and the weight of a block of pixels; adds to the cell what they send back.
inline void add_block(const Arguments& of, const int64_t* __restrict labels, float share, int64_t x0, int64_t count,
                      Cell& cell, float* __restrict exponentials, double* sums) {
  alignas(64) float largest[BLOCK], chosen[BLOCK], total[BLOCK], weight[BLOCK], scale[BLOCK];
  alignas(64) int32_t label[BLOCK];
  for (int64_t x = 0; x < count; ++x) {
    const int64_t id = labels[x];
    const bool known = id >= 0 && id < of.classes;
    label[x] = known ? static_cast<int32_t>(id) : 0;
    weight[x] = id == of.ignore_index       ? 0
                : known && of.class_weights ? of.class_weights[id]
                : known                     ? 1
                                            : NAN;  // a label that is no class must not pass in silence
    largest[x] = -INFINITY, chosen[x] = total[x] = 0;
  }
  const int64_t width = of.columns.full;
  for (int64_t c = 0; c < of.classes; ++c) {
    const float* __restrict first = cell.first.data() + c * width + x0;
    const float* __restrict second = cell.second.data() + c * width + x0;
    float* __restrict logits = exponentials + c * BLOCK;
    for (int64_t x = 0; x < count; ++x) {
      const float logit = lerp(first[x], second[x], share);
      logits[x] = logit;
      largest[x] = logit > largest[x] ? logit : largest[x];
      chosen[x] = label[x] == c ? logit : chosen[x];
    }
  }
  for (int64_t c = 0; c < of.classes; ++c) {
    float* __restrict channel = exponentials + c * BLOCK;
    for (int64_t x = 0; x < count; ++x) {
      channel[x] = exp(channel[x] - largest[x]);
      total[x] += channel[x];
    }
  }
  for (int64_t x = 0; x < count; ++x) {
    const float loss = log(total[x]) - (chosen[x] - largest[x]);
    scale[x] = weight[x] / total[x];
    largest[x] = weight[x] == 0 ? 0 : weight[x] * loss;  // void counts for nothing, whatever its logits
  }
  for (int64_t x = 0; x < count; ++x) sums[0] += largest[x], sums[1] += weight[x];
  if (!of.gradient) return;
  for (int64_t c = 0; c < of.classes; ++c) {
    float* __restrict channel = exponentials + c * BLOCK;
    float* __restrict to_first = cell.to_first.data() + c * width + x0;
    float* __restrict to_second = cell.to_second.data() + c * width + x0;
    for (int64_t x = 0; x < count; ++x) {
      const float error = channel[x] * scale[x] - (label[x] == c ? weight[x] : 0);
      channel[x] = weight[x] == 0 ? 0 : error;
      to_first[x] += (1 - share) * channel[x];
    }
    for (int64_t x = 0; share != 0 && x < count; ++x) to_second[x] += share * channel[x];
  }
}

// The cells [begin, end), see for_cells.
inline void rows(const Arguments& of, int64_t begin, int64_t end, int64_t parity) {
  const int64_t height = of.rows.size, low = of.columns.size, width = of.columns.full;
  std::vector<float> exponentials(of.classes * BLOCK);
  Cell cell;
  for (auto* maps : {&cell.first, &cell.second, &cell.to_first, &cell.to_second}) maps->resize(of.classes * width);
  for (int64_t i = begin; i < end; ++i) {
    const auto [n, y, below, top, bottom, mixed] = resize::SIMD_TARGET::cell(of.rows, i, parity);
    if (top == bottom) continue;
    for (int64_t c = 0; c < of.classes; ++c) {
      const float* channel = of.logits + (n * of.classes + c) * height * low;
      stretch(of.columns, channel + y * low, cell.first.data() + c * width);
      if (mixed) stretch(of.columns, channel + below * low, cell.second.data() + c * width);
    }
    std::fill(cell.to_first.begin(), cell.to_first.end(), 0.0f);
    std::fill(cell.to_second.begin(), cell.to_second.end(), 0.0f);
    for (int64_t row = top; row < bottom; ++row) {
      const int64_t* labels = of.labels + (n * of.rows.full + row) * width;
      for (int64_t x = 0; x < width; x += BLOCK)
        add_block(of, labels + x, of.rows.share[row], x, std::min(BLOCK, width - x), cell, exponentials.data(),
                  of.sums + 2 * (n * height + y));
    }
    for (int64_t c = 0; of.gradient && c < of.classes; ++c) {
      float* channel = of.gradient + (n * of.classes + c) * height * low;
      add_adjoint(of.columns, cell.to_first.data() + c * width, channel + y * low);
      if (mixed) add_adjoint(of.columns, cell.to_second.data() + c * width, channel + below * low);
    }
  }
}

}  // namespace segmentation_loss::SIMD_TARGET
