// CUDA on a CPU, for kernels of one dimension whose threads wait for each other within a warp.
//
// Each thread of a block is a fiber, which runs until it has to wait for its warp. Which thread runs next is random,
// and so is the order of blocks: a result that depends on the order, for want of a barrier, changes. Shared memory is
// NaN when a block starts. What the real hardware would leave undefined is an error: threads of a warp that wait at
// different places, or in vain for one that has returned.
//
// Included in place of the toolkit's header, this makes a kernel's source compile as C++, once its launch is a call of
// cuda_on_a_cpu::launch, and its array in shared memory comes from cuda_on_a_cpu::shared_memory.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct dim3 {
  unsigned x;
  explicit dim3(int64_t x) : x(static_cast<unsigned>(x)) {}
};
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice = 209 };
struct cudaFuncAttributes {};

namespace cuda_on_a_cpu {

constexpr int WARP = 32, RUNS = 0, RETURNED = -1;

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(64 << 10);
  int place = RUNS;  // the line of the source where it waits, or RETURNED
  bool vote = false;
};

inline std::vector<Thread> threads;
inline ucontext_t scheduler;
inline dim3 thread_index(0), block_index(0);
inline std::mt19937 order;
inline std::function<void()> kernel;
inline std::exception_ptr error;      // of a thread, for the caller of the kernel
inline bool has_code = true;          // for this GPU
inline int line_without_barrier = 0;  // a barrier in this line of the source is left out
alignas(16) inline char shared_bytes[48 << 10];

template <class T> T* shared_memory(size_t count) {
  if (count * sizeof(T) > sizeof shared_bytes)
    throw std::runtime_error("shared memory must have at most 48 KB, got " + std::to_string(count * sizeof(T)));
  return reinterpret_cast<T*>(shared_bytes);
}

inline void wait(int line) {
  Thread& thread = threads[thread_index.x];
  thread.place = line;
  swapcontext(&thread.context, &scheduler);
}

inline void run_thread() {
  try {
    kernel();
  } catch (...) {
    error = std::current_exception();
  }
  wait(RETURNED);
}

inline std::vector<unsigned> shuffled(unsigned count) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  std::shuffle(indices.begin(), indices.end(), order);
  return indices;
}

// Lets a warp go on whose threads all wait at one place, and says whether there is anything left to do.
inline bool meet(unsigned first, unsigned count) {
  const int place = threads[first].place;
  bool any = false;
  for (unsigned i = first; i < first + count; ++i) {
    if (threads[i].place != place)
      throw std::runtime_error("the threads of a warp must meet at one barrier, got lines " + std::to_string(place) +
                               " and " + std::to_string(threads[i].place));
    any |= threads[i].vote;
  }
  if (place == RETURNED) return false;
  for (unsigned i = first; i < first + count; ++i) threads[i].place = RUNS, threads[i].vote = any;
  return true;
}

inline void run_block(unsigned count) {
  std::memset(shared_bytes, 0xff, sizeof shared_bytes);  // NaN of any type
  threads.resize(count);
  for (Thread& thread : threads) {
    thread.place = RUNS;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data(), thread.context.uc_stack.ss_size = thread.stack.size();
    makecontext(&thread.context, run_thread, 0);
  }
  for (bool left = true; left;) {
    for (unsigned i : shuffled(count))
      if (threads[i].place == RUNS) thread_index.x = i, swapcontext(&scheduler, &threads[i].context);
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
    left = false;
    for (unsigned first = 0; first < count; first += WARP) left |= meet(first, std::min<unsigned>(WARP, count - first));
  }
}

template <class F> void launch(F body, dim3 blocks, unsigned threads_of_a_block) {
  kernel = body;
  for (unsigned block : shuffled(blocks.x)) block_index.x = block, run_block(threads_of_a_block);
}

inline void sync_warp(int line) {
  if (line != line_without_barrier) wait(line);
}

inline bool any_of_warp(unsigned mask, bool vote, int line) {
  if (mask != ~0u) throw std::runtime_error("a vote must be of the whole warp, got mask " + std::to_string(mask));
  threads[thread_index.x].vote = vote;
  wait(line);
  return std::exchange(threads[thread_index.x].vote, false);
}

inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

// A result of an instruction that is right to so many units in the last place: it is off by as many, to either side,
// unless it is a number, or a quotient of numbers, that needs no rounding.
inline float inaccurate(double exact, int units) {
  float result = static_cast<float>(exact);
  if (result == exact || result == 0 || !std::isfinite(result)) return result;
  uint32_t bits;
  std::memcpy(&bits, &result, sizeof bits);
  bits += bits & 1 ? units : -units;
  std::memcpy(&result, &bits, sizeof bits);
  return result;
}

inline float ptx(std::string_view instruction, float x) {
  const double root = std::sqrt(static_cast<double>(flushed(x)));
  if (instruction.find("\"sqrt.approx.ftz.f32 %0, %1;\"") == 0) return flushed(inaccurate(root, 1));
  if (instruction.find("\"rsqrt.approx.ftz.f32 %0, %1;\"") == 0) return flushed(inaccurate(1 / root, 1));
  throw std::runtime_error("no CPU runs the PTX " + std::string(instruction));
}

}  // namespace cuda_on_a_cpu

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
template <class Kernel> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cuda_on_a_cpu::has_code ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error ? "no kernel image is available for execution on the device" : "no error";
}

#define __CUDACC__
#define __CUDA_ARCH__ 900
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads)
#define threadIdx cuda_on_a_cpu::thread_index
#define blockIdx cuda_on_a_cpu::block_index
#define __syncwarp() cuda_on_a_cpu::sync_warp(__LINE__)
#define __any_sync(mask, vote) cuda_on_a_cpu::any_of_warp(mask, vote, __LINE__)
#define asm(...) root = cuda_on_a_cpu::ptx(#__VA_ARGS__, x)  // the source names its operands so

inline float __fdividef(float a, float b) {
  if (std::isfinite(b) && std::fabs(b) > 0x1p126f) return std::isinf(a) ? NAN : std::copysign(0.0f, a) * b;
  return cuda_on_a_cpu::inaccurate(static_cast<double>(a) / b, 2);
}
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
