// The loop over the cells of maps that are resized along their rows (see Axis in resize.h).
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

// Calls `range(begin, end, parity)` in parallel, for all cells of `images` maps with `size` rows. Cell i of a parity is
// cell 2 (i % count) + parity of map i / count, where count = (size + 1 - parity) / 2. The gradient of a cell falls on
// two rows of pixels. Even cells come first and odd ones second, so that no two threads share a row and the order of
// the sums is fixed.
template <class F> void for_cells(int64_t images, int64_t size, const F& range) {
  for (int64_t parity = 0; parity < 2; ++parity)
    torch::stable::parallel_for(0, images * ((size + 1 - parity) / 2), 1,
                                [&](int64_t begin, int64_t end) { range(begin, end, parity); });
}
