// The functions that so3.h asks of a number, for float and double, on host and device; lanes.h has them for vectors.
// It is included once per instruction set.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/fn.h"

namespace so3::SIMD_TARGET {

template <class T> struct ScalarOf {
  using type = T;
};
template <class T> using Scalar = typename ScalarOf<T>::type;

FN float select(bool mask, float a, float b) { return mask ? a : b; }
FN double select(bool mask, double a, double b) { return mask ? a : b; }
template <class T> FN T min(const T& a, const T& b) { return select(a < b, a, b); }
template <class T> FN T max(const T& a, const T& b) { return select(a > b, a, b); }

#ifdef __CUDA_ARCH__
FN bool any(bool mask) { return __any_sync(0xffffffffu, mask); }
FN float divide(float a, float b) { return __fdividef(a, b); }  // to 2 ulp, for IEEE division has a slow path
FN float sqrt(float x) {  // to 1 ulp; a denormal counts as 0, which so3.h's sums of squares allow
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}
FN float rsqrt(float x) {
  float root;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}
FN double rsqrt(double x) { return ::rsqrt(x); }
#else
FN bool any(bool mask) { return mask; }
FN float divide(float a, float b) { return a / b; }
FN float sqrt(float x) { return std::sqrt(x); }
FN float rsqrt(float x) { return 1 / std::sqrt(x); }
FN double rsqrt(double x) { return 1 / std::sqrt(x); }
#endif
FN double divide(double a, double b) { return a / b; }
FN float abs(float x) { return ::fabsf(x); }
FN double abs(double x) { return ::fabs(x); }
FN double sqrt(double x) { return ::sqrt(x); }
FN float cbrt(float x) { return ::cbrtf(x); }
FN double cbrt(double x) { return ::cbrt(x); }
FN float copysign(float x, float sign) { return ::copysignf(x, sign); }
FN double copysign(double x, double sign) { return ::copysign(x, sign); }

// Returns 2^(1 - e) for 2^e <= x < 2^(e + 1), and 0 for inf: twice the exponent's bias, less the exponent.
FN float inverse_power_of_two(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  bits &= 0x7f800000u;
  bits = 0x7f800000u - (bits > 0x00800000u ? bits : 0x00800000u);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
FN double inverse_power_of_two(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof x);
  bits &= 0x7ff0000000000000u;
  bits = 0x7ff0000000000000u - (bits > 0x0010000000000000u ? bits : 0x0010000000000000u);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace so3::SIMD_TARGET
