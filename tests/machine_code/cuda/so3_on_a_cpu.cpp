// The real so3_cuda.cu, compiled for a CPU and registered as kernels of CPU tensors in a library of its own.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "cuda_runtime.h"

namespace torch::stable::accelerator {
struct NoGuard {
  explicit NoGuard(int32_t) {}
};
}  // namespace torch::stable::accelerator

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}

#define DeviceGuard NoGuard
#define inverseform_fast so3_on_a_cpu
#define CUDA CPU
#include "launched/so3_cuda.cu"

extern "C" __attribute__((visibility("default"))) void leave_out_barrier(int line, unsigned seed) {
  cuda_on_a_cpu::line_without_barrier = line;
  cuda_on_a_cpu::order.seed(seed);
}

extern "C" __attribute__((visibility("default"))) void set_has_code(bool value) { cuda_on_a_cpu::has_code = value; }
