// Bilinear resizing along one axis (`align_corners=False`), and its adjoint.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

// Each of `full` positions lies between two of `size` pixels. *Cell* i has those between the pixels i and i + 1.
struct Axis {
  int64_t size, full, taps = 0;        // taps: the largest number of positions that use one pixel
  std::vector<int32_t> before, after;  // [full], the two pixels of each position
  std::vector<float> share;            // [full], the weight of the second
  std::vector<int64_t> cell;           // [size + 1], the first position of each cell, and the end
  std::vector<int32_t> position;       // [taps, size], the positions that use a pixel
  std::vector<float> weight;           // [taps, size], the pixel's weight there; 0 for taps that it lacks

  Axis(int64_t size, int64_t full)
      : size(size), full(full), before(full), after(full), share(full), cell(size + 1, full) {
    std::vector<int32_t> found(size);
    for (int64_t i = full - 1; i >= 0; --i) {
      const int64_t place = std::max<int64_t>((2 * i + 1) * size - full, 0);  // in parts of a pixel, 2 full of them
      before[i] = static_cast<int32_t>(std::min(place / (2 * full), size - 1));
      after[i] = std::min<int32_t>(before[i] + 1, size - 1);
      const double rest = static_cast<double>(place - 2 * full * before[i]);
      share[i] = after[i] > before[i] ? static_cast<float>(rest / (2.0 * full)) : 0;
      cell[before[i]] = i;
      for (auto [pixel, part] : {std::pair(before[i], 1 - share[i]), std::pair(after[i], share[i])})
        if (part != 0) taps = std::max<int64_t>(taps, ++found[pixel]);
    }
    for (int64_t c = size - 1; c >= 0; --c) cell[c] = std::min(cell[c], cell[c + 1]);
    position.resize(taps * size), weight.resize(taps * size);
    std::fill(found.begin(), found.end(), 0);
    for (int64_t i = 0; i < full; ++i)
      for (auto [pixel, part] : {std::pair(before[i], 1 - share[i]), std::pair(after[i], share[i])})
        if (part != 0) {
          const int64_t tap = found[pixel]++ * size + pixel;
          position[tap] = static_cast<int32_t>(i), weight[tap] = part;
        }
  }
};
