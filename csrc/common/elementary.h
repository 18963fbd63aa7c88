// exp and log of floats, right to one unit in the last place, which compilers turn into vector instructions. The
// polynomials are those of Cephes. It is included once per instruction set.

#include <cstdint>
#include <cstring>

#include "common/fn.h"

namespace elementary::SIMD_TARGET {

FN float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

FN uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// x must be at most 0, or NaN. A result that is no normal number becomes 0.
FN float exp(float x) {
  constexpr float ROUND = 0x1.8p23f;  // a number's units move to the last places of its significand
  const float bounded = x < -87.0f ? -87.0f : x;
  const float shifted = bounded * 1.44269504f + ROUND, n = shifted - ROUND;
  const float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  return x < -87.0f ? 0 : p * from_bits((to_bits(shifted) + 127) << 23);
}

// x must be a normal number above 0, or NaN.
FN float log(float x) {
  constexpr uint32_t HALF = 0x3f3504f3;  // the bits of sqrt(1/2): the significand lies in [sqrt(1/2), sqrt(2))
  const int32_t exponent = static_cast<int32_t>(to_bits(x) - HALF) >> 23;
  const float n = static_cast<float>(exponent);
  const float r = from_bits(to_bits(x) - (static_cast<uint32_t>(exponent) << 23)) - 1;
  float p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const float square = r * r;
  const float result = r + (p * r * square - n * 2.12194440e-4f - 0.5f * square) + n * 0.693359375f;
  return x != x ? x : result;
}

struct Sigmoids {
  float chance, doubt;  // sigmoid(x), sigmoid(-x)
  float log1p;          // log(1 + e^-|x|)
};

// Each has full relative accuracy, as in kernels/elementary.py.
FN Sigmoids sigmoids(float x) {
  const float e = exp(x < 0 ? x : -x), large = 1 / (1 + e), small = e * large;
  const float s = e / (2 + e), s2 = s * s;
  float series = 1.0f / 9 + s2 * (1.0f / 11 + s2 * (1.0f / 13 + s2 * (1.0f / 15)));
  series = 1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * series));
  return {x < 0 ? small : large, x < 0 ? large : small, 2 * s * (1 + s2 * series)};
}

}  // namespace elementary::SIMD_TARGET
