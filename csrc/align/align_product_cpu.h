// Sums of products, which the convolutions are made of, and the activations. It is included once per instruction set.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "align/align_network.h"
#include "common/elementary.h"

namespace align::SIMD_TARGET {

#ifdef SIMD_BYTES
constexpr int64_t BYTES = SIMD_BYTES;
#else
constexpr int64_t BYTES = 16;
#endif
typedef float Vector __attribute__((vector_size(BYTES)));
constexpr int64_t LANES = BYTES / sizeof(float);
constexpr int PIXELS = BYTES == 64 ? 14 : 6;  // with two vectors per pixel, these fill the registers
static_assert(LINE % LANES == 0);

FN Vector load(const float* source) {  // [LANES]
  Vector v;
  std::memcpy(&v, source, sizeof v);
  return v;
}

FN void store(float* result, Vector v) { std::memcpy(result, &v, sizeof v); }

// out[p * out_step + c] = bias[c] + sum_k in[p * STEP + offsets[k]] * weights[k * line + c]
template <int STEP> struct Product {
  const std::vector<int64_t>& offsets;
  const float* weights;    // [offsets, line]
  int64_t line, channels;  // channels: rounded up to whole vectors
  const float* bias;       // [channels], or null
  int64_t out_step;

  Product(const Layer& layer, int64_t out_step)
      : Product(layer.offsets, layer.weights.data(), padded(layer.channels), layer.channels, layer.bias.data(),
                out_step) {}
  Product(const std::vector<int64_t>& offsets, const float* weights, int64_t line, int64_t channels, const float* bias,
          int64_t out_step)
      : offsets(offsets),
        weights(weights),
        line(line),
        channels((channels + LANES - 1) / LANES * LANES),
        bias(bias),
        out_step(out_step) {}

  // Computes `count` pixels. `in` is [count, STEP], and the offsets reach beyond; `out` is [count, out_step].
  __attribute__((noinline)) void operator()(const float* in, float* out, int64_t count) const {
    int64_t channel = 0;
    for (; channel + 2 * LANES <= channels; channel += 2 * LANES) row<2>(in, out, count, channel);
    for (; channel < channels; channel += LANES) row<1>(in, out, count, channel);
  }

 private:
  template <int VECTORS> FN void row(const float* in, float* out, int64_t count, int64_t channel) const {
    if (count < PIXELS) {
      for (int64_t p = 0; p < count; ++p) block<VECTORS, 1>(in + p * STEP, out + p * out_step, channel);
      return;
    }
    for (int64_t p = 0; p < count; p += PIXELS) {
      const int64_t first = std::min(p, count - PIXELS);  // the last block computes some pixels again, to the same bits
      block<VECTORS, PIXELS>(in + first * STEP, out + first * out_step, channel);
    }
  }

  template <int VECTORS, int COUNT> FN void block(const float* in, float* out, int64_t channel) const {
    Vector sum[COUNT][VECTORS];
#pragma GCC unroll 32
    for (int v = 0; v < VECTORS; ++v) {
      const Vector start = bias ? load(bias + channel + v * LANES) : Vector{};
#pragma GCC unroll 32
      for (int p = 0; p < COUNT; ++p) sum[p][v] = start;
    }
    const float* w = weights + channel;
    for (const int64_t offset : offsets) {
      Vector weight[VECTORS];
#pragma GCC unroll 32
      for (int v = 0; v < VECTORS; ++v) weight[v] = load(w + v * LANES);
#pragma GCC unroll 32
      for (int p = 0; p < COUNT; ++p) {
        const float x = in[offset + p * STEP];
#pragma GCC unroll 32
        for (int v = 0; v < VECTORS; ++v) sum[p][v] += x * weight[v];
      }
      w += line;
    }
#pragma GCC unroll 32
    for (int p = 0; p < COUNT; ++p)
#pragma GCC unroll 32
      for (int v = 0; v < VECTORS; ++v) store(out + p * out_step + channel + v * LANES, sum[p][v]);
  }
};

FN float sigmoid(float x) {
  const float e = elementary::SIMD_TARGET::exp(x < 0 ? x : -x);
  return (x < 0 ? e : 1) / (1 + e);
}

inline void silu(const float* __restrict x,  // [count]
                 int64_t count,
                 float* __restrict result) {  // [count]
  for (int64_t i = 0; i < count; ++i) result[i] = x[i] * sigmoid(x[i]);
}

// Multiplies by silu's derivative at x.
inline void silu_backward(const float* __restrict x,  // [count]
                          int64_t count,
                          float* __restrict grad) {  // [count]
  for (int64_t i = 0; i < count; ++i) {
    const float s = sigmoid(x[i]);
    grad[i] *= s + s * x[i] * (1 - s);
  }
}

FN float softplus(float x) { return (x > 0 ? x : 0) + elementary::SIMD_TARGET::sigmoids(x).log1p; }

}  // namespace align::SIMD_TARGET
