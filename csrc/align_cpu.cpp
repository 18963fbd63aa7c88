// align on a CPU; the work is done in align_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

#include "align_network.h"
#include "dense.h"

namespace align {

struct Arguments {
  const Network& network;
  const float *predicted, *target;      // (N, tile, tile)
  float *found, *matrix;                // (N, 8), (N, 8, 8)
  const float* grad;                    // (N, 8)
  float *grad_predicted, *grad_target;  // like the tiles; null: not asked for
};

}  // namespace align

#define SIMD_SOURCE "align_rows_cpu.h"
#include "simd.h"

namespace align {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Inputs {
  Tensor predicted, target;
  std::vector<Tensor> weights;
  Network network;

  Inputs(const Tensor& predicted, const Tensor& target, const std::vector<Tensor>& weights)
      : predicted(dense(predicted, ScalarType::Float)),
        target(dense(target, ScalarType::Float)),
        weights(checked(predicted, target, weights)),
        network(predicted.size(3), pointers(this->weights)) {}

  Arguments arguments() const {
    return {network, numbers<float>(predicted), numbers<float>(target), nullptr, nullptr, nullptr, nullptr, nullptr};
  }

 private:
  static std::vector<Tensor> checked(const Tensor& predicted, const Tensor& target,
                                     const std::vector<Tensor>& weights) {
    STD_TORCH_CHECK(predicted.dim() == 4 && predicted.size(1) == 1 && predicted.size(2) == predicted.size(3) &&
                        predicted.size(3) > 0 && predicted.size(3) % CELL == 0,
                    "predicted must be (N, 1, tile, tile), the tile a multiple of 8");
    STD_TORCH_CHECK(predicted.sizes().vec() == target.sizes().vec(), "target must be like predicted");
    const int64_t cells = predicted.size(3) / CELL;
    const std::vector<int64_t> counts = {FIRST * UNSHUFFLED * UNSHUFFLED * 9,
                                         FIRST,
                                         SECOND * FIRST * 9,
                                         SECOND,
                                         FEATURES * SECOND,
                                         FEATURES,
                                         FEATURES,
                                         FEATURES,
                                         HIDDEN * (OFFSETS + FEATURES),
                                         HIDDEN,
                                         LAST * HIDDEN * 9,
                                         LAST,
                                         OUTPUTS * LAST,
                                         OUTPUTS,
                                         8,
                                         cells * cells * 16};
    STD_TORCH_CHECK(weights.size() == counts.size(), "weights must be the network's");
    std::vector<Tensor> result;
    for (size_t i = 0; i < counts.size(); ++i) {
      STD_TORCH_CHECK(weights[i].numel() == counts[i], "weights must have the network's shapes");
      result.push_back(dense(weights[i], ScalarType::Float));
    }
    return result;
  }

  static std::vector<const float*> pointers(const std::vector<Tensor>& weights) {
    std::vector<const float*> result;
    for (const Tensor& weight : weights) result.push_back(numbers<float>(weight));
    return result;
  }
};

std::tuple<Tensor, Tensor> forward(const Tensor& predicted, const Tensor& target, const std::vector<Tensor>& weights) {
  const Inputs inputs(predicted, target, weights);
  const int64_t n = predicted.size(0);
  const Tensor found = torch::stable::new_empty(inputs.predicted, {n, 8});
  const Tensor matrix = torch::stable::new_empty(inputs.predicted, {n, 8, 8});
  Arguments of = inputs.arguments();
  of.found = results<float>(found), of.matrix = results<float>(matrix);
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { SIMD_BEST(forward)(of, begin, end); });
  return {found, matrix};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& predicted, const Tensor& target,
                                    const std::vector<Tensor>& weights, const Tensor& found, const Tensor& matrix,
                                    bool of_predicted, bool of_target) {
  const Inputs inputs(predicted, target, weights);
  const int64_t n = predicted.size(0);
  const Tensor g = dense(grad, ScalarType::Float), a = dense(found, ScalarType::Float),
               k = dense(matrix, ScalarType::Float);
  STD_TORCH_CHECK(g.numel() == 8 * n && a.numel() == 8 * n && k.numel() == 64 * n,
                  "grad and found must be (N, 8), matrix (N, 8, 8)");
  const std::vector<int64_t> none = {0}, like = inputs.predicted.sizes().vec();
  const Tensor grad_predicted = torch::stable::new_empty(inputs.predicted, of_predicted ? like : none);
  const Tensor grad_target = torch::stable::new_empty(inputs.target, of_target ? like : none);
  Arguments of = inputs.arguments();
  of.grad = numbers<float>(g), of.found = const_cast<float*>(numbers<float>(a));
  of.matrix = const_cast<float*>(numbers<float>(k));
  of.grad_predicted = results<float>(grad_predicted), of.grad_target = results<float>(grad_target);
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { SIMD_BEST(backward)(of, begin, end); });
  return {torch::stable::to(grad_predicted, predicted.scalar_type()),
          torch::stable::to(grad_target, target.scalar_type())};
}

}  // namespace align

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("align", TORCH_BOX(&align::forward));
  m.impl("align_backward", TORCH_BOX(&align::backward));
}
