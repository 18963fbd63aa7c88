// align on a CPU; the work is done in align_rows_cpu.h.

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "common/dense.h"

#define SIMD_SOURCE "align/align_rows_cpu.h"
#include "common/simd.h"

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
                    "predicted must be (N, 1, tile, tile), the tile a multiple of ", CELL);
    STD_TORCH_CHECK(predicted.sizes().vec() == target.sizes().vec(), "target must be like predicted");
    const std::vector<int64_t> sizes = weight_sizes(predicted.size(3) / CELL);
    STD_TORCH_CHECK(weights.size() == sizes.size(), "weights must be the network's");
    std::vector<Tensor> result;
    for (size_t i = 0; i < sizes.size(); ++i) {
      STD_TORCH_CHECK(weights[i].numel() == sizes[i], "weights must have the network's shapes");
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

// Returns the coefficients [N, COEFFICIENTS], and the equations' matrix [N, COEFFICIENTS, COEFFICIENTS] for backward.
std::tuple<Tensor, Tensor> forward(const Tensor& predicted, const Tensor& target, const std::vector<Tensor>& weights) {
  const Inputs inputs(predicted, target, weights);
  const int64_t n = predicted.size(0);
  const Tensor found = torch::stable::new_empty(inputs.predicted, {n, COEFFICIENTS});
  const Tensor matrix = torch::stable::new_empty(inputs.predicted, {n, COEFFICIENTS, COEFFICIENTS});
  Arguments args = inputs.arguments();
  args.found = results<float>(found), args.matrix = results<float>(matrix);
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { SIMD_BEST(forward)(args, begin, end); });
  return {found, matrix};
}

// Returns the gradients of predicted and target, empty where they were not asked for.
std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& predicted, const Tensor& target,
                                    const std::vector<Tensor>& weights, const Tensor& found, const Tensor& matrix,
                                    bool wants_predicted, bool wants_target) {
  const Inputs inputs(predicted, target, weights);
  const int64_t n = predicted.size(0);
  const Tensor g = dense(grad, ScalarType::Float), a = dense(found, ScalarType::Float),
               k = dense(matrix, ScalarType::Float);
  STD_TORCH_CHECK(
      g.numel() == COEFFICIENTS * n && a.numel() == COEFFICIENTS * n && k.numel() == COEFFICIENTS * COEFFICIENTS * n,
      "grad and found must be (N, 8), matrix (N, 8, 8)");
  const std::vector<int64_t> none = {0}, like = inputs.predicted.sizes().vec();
  const Tensor grad_predicted = torch::stable::new_empty(inputs.predicted, wants_predicted ? like : none);
  const Tensor grad_target = torch::stable::new_empty(inputs.target, wants_target ? like : none);
  Arguments args = inputs.arguments();
  args.grad = numbers<float>(g), args.found = const_cast<float*>(numbers<float>(a));
  args.matrix = const_cast<float*>(numbers<float>(k));
  args.grad_predicted = results<float>(grad_predicted), args.grad_target = results<float>(grad_target);
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { SIMD_BEST(backward)(args, begin, end); });
  return {torch::stable::to(grad_predicted, predicted.scalar_type()),
          torch::stable::to(grad_target, target.scalar_type())};
}

}  // namespace align

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("align", TORCH_BOX(&align::forward));
  m.impl("align_backward", TORCH_BOX(&align::backward));
}
