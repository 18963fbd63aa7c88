// extract_tiles on a CPU; the work is done in extract_tiles_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "common/dense.h"
#include "common/for_cells.h"

#define SIMD_SOURCE "extract_tiles_rows_cpu.h"
#include "common/simd.h"

namespace extract_tiles {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns predicted and true tiles, and where they are valid, all [N * rows * columns, 1, tile, tile].
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
  const Forward args = {numbers<float>(maps),
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
                              [&](int64_t begin, int64_t end) { SIMD_BEST(make_rows)(args, begin, end); });
  return {predicted_tiles, true_tiles, valid};
}

// Returns the gradient [N, 1, h, w] of the probabilities.
Tensor extract_tiles_backward(const Tensor& grad, const Tensor& valid, const std::vector<int64_t>& shape,
                              const std::vector<int64_t>& size, int64_t tile) {
  STD_TORCH_CHECK(shape.size() == 4 && shape[1] == 1 && size.size() == 2 && tile > 0 && size[0] % tile == 0 &&
                      size[1] % tile == 0 && grad.numel() == shape[0] * size[0] * size[1] &&
                      valid.numel() == grad.numel(),
                  "grad and valid must be the tiles of size");
  const Tensor tiles = dense(grad, ScalarType::Float), kinds = dense(valid, ScalarType::Byte);
  const Tensor grad_predicted = torch::stable::new_zeros(tiles, shape);
  const Backward args = {numbers<float>(tiles),   numbers<uint8_t>(kinds), results<float>(grad_predicted),
                         Axis(shape[2], size[0]), Axis(shape[3], size[1]), {size[1] / tile, tile}};
  for_cells(shape[0], shape[2],
            [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(add_cells)(args, begin, end, parity); });
  return grad_predicted;
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
