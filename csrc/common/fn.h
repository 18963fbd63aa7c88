// FN marks functions that are inlined wherever they are called, so that they are compiled for the instruction set of
// their caller. In CUDA code they run on the host and on the device.
#pragma once

#ifdef __CUDACC__
#define FN __host__ __device__ __forceinline__
#else
#define FN inline __attribute__((always_inline))
#endif
