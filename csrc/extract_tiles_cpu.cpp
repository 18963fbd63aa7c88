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

constexpr int64_t GRAIN = 16;  // rows that are worth a thread

// Returns the probabilities of logits. Each row is computed as a whole, so that the number of threads, which torch's
// sigmoid rounds by, changes no bit.
Tensor probabilities(const Tensor& logits) {
  const Tensor result = torch::stable::empty_like(logits);
  const float* from = numbers<float>(logits);
  float* to = results<float>(result);
  const int64_t width = logits.size(3);
  torch::stable::parallel_for(0, logits.size(0) * logits.size(2), GRAIN, [&](int64_t begin, int64_t end) {
    SIMD_BEST(squash)(from + begin * width, end - begin, width, to + begin * width);
  });
  return result;
}

// Returns predicted and true tiles, and where they are valid, all [N * rows * columns, 1, tile, tile].
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& predicted, const Tensor& target,
                                           const std::vector<int64_t>& size, int64_t tile, bool sigmoid) {
  STD_TORCH_CHECK(predicted.dim() == 4 && predicted.size(1) == 1 && target.dim() == 4 && target.size(1) == 1 &&
                      target.size(0) == predicted.size(0),
                  "predicted and target must be (N, 1, height, width)");
  STD_TORCH_CHECK(tile > 0 && size.size() == 2 && size[0] % tile == 0 && size[1] % tile == 0,
                  "size must be two multiples of tile");
  const Tensor given = dense(predicted, ScalarType::Float), kinds = dense(target, ScalarType::Float);
  const Tensor maps = sigmoid ? probabilities(given) : given;
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
  torch::stable::parallel_for(0, n * size[0], GRAIN,
                              [&](int64_t begin, int64_t end) { SIMD_BEST(make_rows)(args, begin, end); });
  return {predicted_tiles, true_tiles, valid};
}

// Returns the gradient of predicted.
Tensor backward(const Tensor& grad, const Tensor& valid, const Tensor& predicted, const std::vector<int64_t>& size,
                int64_t tile, bool sigmoid) {
  STD_TORCH_CHECK(predicted.dim() == 4 && predicted.size(1) == 1 && size.size() == 2 && tile > 0 &&
                      size[0] % tile == 0 && size[1] % tile == 0 &&
                      grad.numel() == predicted.size(0) * size[0] * size[1] && valid.numel() == grad.numel(),
                  "grad and valid must be the tiles of size");
  const int64_t n = predicted.size(0), height = predicted.size(2), width = predicted.size(3);
  const Tensor tiles = dense(grad, ScalarType::Float), kinds = dense(valid, ScalarType::Byte);
  const Tensor grad_predicted = torch::stable::new_zeros(tiles, {n, 1, height, width});
  float* result = results<float>(grad_predicted);
  const Backward args = {numbers<float>(tiles), numbers<uint8_t>(kinds), result,
                         Axis(height, size[0]), Axis(width, size[1]),    {size[1] / tile, tile}};
  for_cells(n, height,
            [&](int64_t begin, int64_t end, int64_t parity) { SIMD_BEST(add_cells)(args, begin, end, parity); });
  if (sigmoid) {
    const Tensor logits = dense(predicted, ScalarType::Float);
    const float* from = numbers<float>(logits);
    torch::stable::parallel_for(0, n * height, GRAIN, [&](int64_t begin, int64_t end) {
      SIMD_BEST(scale_by_slopes)(from + begin * width, end - begin, width, result + begin * width);
    });
  }
  return torch::stable::to(grad_predicted, predicted.scalar_type());
}

}  // namespace extract_tiles

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("extract_tiles", TORCH_BOX(&extract_tiles::forward));
  m.impl("extract_tiles_backward", TORCH_BOX(&extract_tiles::backward));
}
