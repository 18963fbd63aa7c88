// Small kernels whose results are known; `emulator_cases NAME` prints what the kernel of that name gives.

#include <iostream>
#include <map>

#include "cuda_runtime.h"

using cuda_on_a_cpu::launch, cuda_on_a_cpu::shared_memory;

constexpr unsigned THREADS = 64;  // two warps

std::vector<int> results(2 * THREADS);

void print_results() {
  for (int result : results) std::cout << result << ' ';
}

// Each thread reads what its neighbor in the warp wrote.
template <bool BARRIER> void neighbors() {
  int* numbers = shared_memory<int>(THREADS);
  numbers[threadIdx.x] = int(100 * blockIdx.x + threadIdx.x);
  if (BARRIER) __syncwarp();
  results[THREADS * blockIdx.x + threadIdx.x] = numbers[threadIdx.x ^ 1];
}

void votes() {
  const bool one_of_the_second_warp = threadIdx.x == 40, none = false;
  results[threadIdx.x] = __any_sync(~0u, one_of_the_second_warp) + 2 * __any_sync(~0u, none);
}

void shared_memory_at_the_start() {
  const float* numbers = shared_memory<float>(THREADS);
  results[THREADS * blockIdx.x + threadIdx.x] = std::isnan(numbers[threadIdx.x]);
  shared_memory<float>(THREADS)[threadIdx.x] = 1;
}

std::vector<int> arrivals;
void order() { arrivals.push_back(int(THREADS * blockIdx.x + threadIdx.x)); }

void one_returns() {
  if (threadIdx.x == 5) return;
  __syncwarp();
}

void two_barriers() {
  if (threadIdx.x < 8)
    __syncwarp();
  else
    __syncwarp();
}

void part_of_a_warp_votes() { __any_sync(0xffffu, true); }

void too_much_shared_memory() { shared_memory<double>(10000); }

void unknown_ptx() {
  float x = 2, root;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  results[0] = int(root);
}

float root_of(float x) {
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

float reciprocal_root_of(float x) {
  float root;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

int units_apart(float a, float b) {
  int32_t bits[2];
  std::memcpy(bits, &a, sizeof a), std::memcpy(bits + 1, &b, sizeof b);
  return std::abs(bits[0] - bits[1]);
}

// Prints by how many units in the last place the results are off that need rounding, then what needs none.
void approximate_arithmetic() {
  std::cout << units_apart(root_of(3), std::sqrt(3.0f)) << ' ' << units_apart(reciprocal_root_of(0.3f), 1.8257418f)
            << ' ' << units_apart(__fdividef(1, 3), 1 / 3.0f) << ' ' << root_of(9) << ' ' << root_of(1e-40f) << ' '
            << reciprocal_root_of(0) << ' ' << __fdividef(6, 3) << ' ' << __fdividef(1, 0x1p127f) << ' '
            << std::isnan(__fdividef(INFINITY, 0x1p127f));
}

int main(int, char** arguments) {
  const std::map<std::string, void (*)()> kernels = {
      {"neighbors", neighbors<true>},
      {"neighbors without a barrier", neighbors<false>},
      {"votes", votes},
      {"shared memory at the start", shared_memory_at_the_start},
      {"order", order},
      {"one returns", one_returns},
      {"two barriers", two_barriers},
      {"part of a warp votes", part_of_a_warp_votes},
      {"too much shared memory", too_much_shared_memory},
      {"unknown PTX", unknown_ptx},
  };
  const std::string name = arguments[1];
  try {
    if (name == "approximate arithmetic")
      approximate_arithmetic();
    else
      launch(kernels.at(name), dim3(2), THREADS), print_results();
    for (int thread : arrivals) std::cout << thread << ' ';
  } catch (const std::runtime_error& error) {
    std::cout << error.what();
  }
}
