// The ops' definitions and their CPU kernels: so3.h on SIMD lanes, compiled per instruction set and picked at run time.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "so3_ops.h"

#define SO3_TARGET scalar
#include "so3_rows_cpu.h"
#undef SO3_TARGET

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SO3_X86
#pragma GCC diagnostic ignored "-Wpsabi"  // everything that takes a vector is inlined
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define SO3_TARGET avx2
#define SO3_BYTES 32
#include "so3_rows_cpu.h"
#undef SO3_BYTES
#undef SO3_TARGET
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma,prefer-vector-width=512")
#define SO3_TARGET avx512
#define SO3_BYTES 64
#include "so3_rows_cpu.h"
#undef SO3_BYTES
#undef SO3_TARGET
#pragma GCC pop_options
#endif

namespace so3 {

enum class Simd { NONE, AVX2, AVX512 };

Simd simd() {  // ATEN_CPU_CAPABILITY lowers it, as for torch's own kernels
#ifdef SO3_X86
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view asked = variable ? variable : "";
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && asked != "avx2" && asked != "default") return Simd::AVX512;
  if (fma && asked != "default") return Simd::AVX2;
#endif
  return Simd::NONE;
}

struct Cpu {
  template <class Arguments> static void run(const Arguments& of, int64_t count, int32_t) {
    switch (simd()) {
#ifdef SO3_X86
      case Simd::AVX512:
        return in_parallel(&avx512::rows<Arguments>, avx512::ROWS<Arguments>, of, count);
      case Simd::AVX2:
        return in_parallel(&avx2::rows<Arguments>, avx2::ROWS<Arguments>, of, count);
#endif
      default:
        return in_parallel(&scalar::rows<Arguments>, scalar::ROWS<Arguments>, of, count);
    }
  }

 private:
  // By whole vectors, so that what shares one does not depend on the number of threads.
  template <class Function, class Arguments>
  static void in_parallel(Function rows, int64_t width, const Arguments& of, int64_t count) {
    constexpr int64_t GRAIN = 2048;  // rows that are worth a thread
    torch::stable::parallel_for(0, (count + width - 1) / width, GRAIN / width, [&](int64_t begin, int64_t end) {
      rows(of, begin * width, std::min(end * width, count));
    });
  }
};

}  // namespace so3

STABLE_TORCH_LIBRARY_FRAGMENT(inverseform_fast, m) {
  m.def("project_to_so3(Tensor matrix) -> Tensor");
  m.def("project_to_so3_backward(Tensor grad, Tensor matrix, Tensor rotation) -> Tensor");
  m.def(
      "geodesic_distance(Tensor theta, Tensor theta_hat, float lam, int normalize, float smooth, float damping, "
      "bool of_theta, bool of_theta_hat) -> (Tensor distance, Tensor grad_theta, Tensor grad_theta_hat)");
}

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("project_to_so3", TORCH_BOX(&so3::Ops<so3::Cpu>::project_to_so3));
  m.impl("project_to_so3_backward", TORCH_BOX(&so3::Ops<so3::Cpu>::project_to_so3_backward));
  m.impl("geodesic_distance", TORCH_BOX(&so3::Ops<so3::Cpu>::geodesic_distance));
}
