// The ops' CUDA kernels. Each thread has one matrix. Matrices go through shared memory, so that a warp reads and writes
// its 32 matrices as one run of numbers; rows of 9 words touch each bank once.

#include <cuda_runtime.h>

#include "so3/so3_ops.h"

#define SIMD_TARGET cuda
#include "so3/rows.h"

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace so3::cuda {

constexpr int WARP = 32, BLOCK = 128;

template <class T> struct WarpAccess {
  T* tile;        // [WARP, 3, 3], shared memory of this warp
  int64_t first;  // its first row
  int count, lane;

  __device__ __forceinline__ Matrix<T> load(const Rows<T>& rows) const {
    if (rows.stride == 0) return load_matrix([&](int k) { return rows.data[k]; });
    const T* data = rows.data + 9 * first + lane;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 9 * WARP; k += WARP)
      if (lane + k < 9 * count) tile[lane + k] = data[k];
    __syncwarp();
    const T* row = tile + 9 * (lane < count ? lane : count - 1);  // spare threads repeat the last one
    return load_matrix([&](int k) { return row[k]; });
  }
  __device__ __forceinline__ void store(T* results, const Matrix<T>& matrix) const {  // results: [N, 3, 3]
    __syncwarp();
    store_matrix(matrix, [&](int k, T x) { tile[9 * lane + k] = x; });
    T* data = results + 9 * first + lane;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 9 * WARP; k += WARP)
      if (lane + k < 9 * count) data[k] = tile[lane + k];
  }
  __device__ __forceinline__ void store(T* results, T number) const {  // results: [N]
    if (lane < count) results[first + lane] = number;
  }
};

template <class Arguments> __global__ void __launch_bounds__(BLOCK) kernel(Arguments args, int64_t count) {
  using T = typename Arguments::Scalar;
  __shared__ T tiles[9 * BLOCK];
  const int warp = threadIdx.x / WARP;
  const int64_t first = int64_t(BLOCK) * blockIdx.x + WARP * warp;
  if (first >= count) return;
  const int rows = count - first < WARP ? int(count - first) : WARP;
  compute(WarpAccess<T>{tiles + 9 * WARP * warp, first, rows, int(threadIdx.x % WARP)}, args);
}

struct Cuda {
  template <class Arguments> static void run(const Arguments& args, int64_t count, int32_t device) {
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    STD_TORCH_CHECK(blocks <= INT32_MAX, "at most ", int64_t(INT32_MAX) * BLOCK, " matrices, got ", count);
    kernel<<<dim3(blocks), BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(args, count);
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "so3: ", cudaGetErrorString(error));
  }
};

}  // namespace so3::cuda

// Why the kernels cannot run on a GPU, or null: the binary may hold code for other architectures only.
extern "C" __attribute__((visibility("default"))) const char* inverseform_fast_cuda_error(int32_t device) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, so3::cuda::kernel<so3::Project<float>>);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CUDA, m) {
  using Ops = so3::Ops<so3::cuda::Cuda>;
  m.impl("project_to_so3", TORCH_BOX(&Ops::project_to_so3));
  m.impl("project_to_so3_backward", TORCH_BOX(&Ops::project_to_so3_backward));
  m.impl("geodesic_distance", TORCH_BOX(&Ops::geodesic_distance));
}
