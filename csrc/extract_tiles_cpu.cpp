// extract_tiles on a CPU: resizing and cutting; the work is done in extract_tiles_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "dense.h"
#include "resize.h"

namespace extract_tiles {

struct Grid {  // of an image's tiles
  int64_t columns, tile;

  // Of a row of the n-th image of `height`, what lies in the first of its tiles.
  template <class T> T* row(T* tiles, int64_t n, int64_t height, int64_t y) const {
    return tiles + (((n * (height / tile) + y / tile) * columns) * tile + y % tile) * tile;
  }
};

struct Forward {
  const float *predicted, *target;      // (N, h, w) probabilities, (N, H, W)
  float *predicted_tiles, *true_tiles;  // (N * rows * columns, tile, tile)
  uint8_t* valid;                       // likewise
  Axis rows, columns, target_rows, target_columns;
  Grid grid;
};

struct Backward {
  const float* grad;     // like the tiles
  const uint8_t* valid;  // likewise
  float* gradient;       // (N, h, w), zero
  Axis rows, columns;
  Grid grid;
};

}  // namespace extract_tiles

#define SIMD_SOURCE "extract_tiles_rows_cpu.h"
#include "simd.h"

namespace extract_tiles {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Predicted and true tiles, and where they are valid, all (N * rows * columns, 1, tile, tile).
std::tuple<Tensor, Tensor, Tensor> extract_tiles(const Tensor& predicted, const Tensor& target,
                                                 const std::vector<int64_t>& size, int64_t tile) {
  STD_TORCH_CHECK(predicted.dim() == 4 && predicted.size(1) == 1 && target.dim() == 4 && target.size(1) == 1 &&
                      target.size(0) == predicted.size(0),
                  "predicted and target must be (N, 1, height, width)");
  STD_TORCH_CHECK(tile > 0 && size.size() == 2 && size[0] % tile == 0 && size[1] % tile == 0,
                  "size must be two multiples of tile");
  const Tensor maps = dense(predicted, ScalarType::Float), kinds = dense(target, ScalarType::Float);
  const int64_t n = maps.size(0), columns = size[1] / tile;
  const std::vector<int64_t> shape = {n * (size[0] / tile) * columns, 1, tile, tile};
  const Tensor predicted_tiles = torch::stable::new_empty(maps, shape);
  const Tensor true_tiles = torch::stable::new_empty(maps, shape);
  const Tensor valid = torch::stable::new_empty(maps, shape, ScalarType::Byte);
  const Forward of = {numbers<float>(maps),
                      numbers<float>(kinds),
                      results<float>(predicted_tiles),
                      results<float>(true_tiles),
                      results<uint8_t>(valid),
                      Axis(maps.size(2), size[0]),
                      Axis(maps.size(3), size[1]),
                      Axis(kinds.size(2), size[0]),
                      Axis(kinds.size(3), size[1]),
                      {columns, tile}};
  constexpr int64_t GRAIN = 16;  // rows that are worth a thread
  torch::stable::parallel_for(0, n * size[0], GRAIN,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(rows)(of, begin, end); });
  return {predicted_tiles, true_tiles, valid};
}

// Gradient (N, 1, h, w) of the probabilities.
Tensor extract_tiles_backward(const Tensor& grad, const Tensor& valid, const std::vector<int64_t>& shape,
                              const std::vector<int64_t>& size, int64_t tile) {
  STD_TORCH_CHECK(shape.size() == 4 && shape[1] == 1 && size.size() == 2 && tile > 0 && size[0] % tile == 0 &&
                      size[1] % tile == 0 && grad.numel() == shape[0] * size[0] * size[1] &&
                      valid.numel() == grad.numel(),
                  "grad and valid must be the tiles of size");
  const Tensor tiles = dense(grad, ScalarType::Float), kinds = dense(valid, ScalarType::Byte);
  const Tensor gradient = torch::stable::new_zeros(tiles, shape);
  const Backward of = {numbers<float>(tiles),   numbers<uint8_t>(kinds), results<float>(gradient),
                       Axis(shape[2], size[0]), Axis(shape[3], size[1]), {size[1] / tile, tile}};
  for_cells(shape[0], shape[2],
            [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(cells)(of, begin, end, parity); });
  return gradient;
}

}  // namespace extract_tiles

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def(
      "extract_tiles_cpu(Tensor predicted, Tensor target, int[] size, int tile) "
      "-> (Tensor predicted_tiles, Tensor true_tiles, Tensor valid)");
  m.def("extract_tiles_backward_cpu(Tensor grad, Tensor valid, int[] shape, int[] size, int tile) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("extract_tiles_cpu", TORCH_BOX(&extract_tiles::extract_tiles));
  m.impl("extract_tiles_backward_cpu", TORCH_BOX(&extract_tiles::extract_tiles_backward));
}
