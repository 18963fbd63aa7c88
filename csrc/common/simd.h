// Includes SIMD_SOURCE once per instruction set. What it defines in a namespace SIMD_TARGET exists for each of them,
// and SIMD_BEST(name) is the best that runs on this machine. SIMD_BYTES is the size of a vector; scalar code has none.
// Scalar comes first, so that the standard headers that the source includes are compiled for any machine.

#include <cstdlib>
#include <string_view>

#define SIMD_TARGET scalar
#include SIMD_SOURCE
#undef SIMD_TARGET

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // it warns about vector arguments, but these functions are inlined
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define SIMD_TARGET avx2
#define SIMD_BYTES 32
#include SIMD_SOURCE
#undef SIMD_BYTES
#undef SIMD_TARGET
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma,prefer-vector-width=512")
#define SIMD_TARGET avx512
#define SIMD_BYTES 64
#include SIMD_SOURCE
#undef SIMD_BYTES
#undef SIMD_TARGET
#pragma GCC pop_options

enum class Simd { NONE, AVX2, AVX512 };

inline Simd simd() {  // ATEN_CPU_CAPABILITY lowers it, as for torch's own kernels
  const char* variable = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view asked = variable ? variable : "";
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && asked != "avx2" && asked != "default") return Simd::AVX512;
  return fma && asked != "default" ? Simd::AVX2 : Simd::NONE;
}

#define SIMD_BEST(name) (simd() == Simd::AVX512 ? avx512::name : simd() == Simd::AVX2 ? avx2::name : scalar::name)
#else
#define SIMD_BEST(name) scalar::name
#endif
