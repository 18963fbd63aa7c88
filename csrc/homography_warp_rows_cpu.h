// The warp and its gradients, computed for pieces of rows. The compiler vectorizes the loops over a piece's pixels,
// except those that add to the image's gradient. It is included once per instruction set.
//
// A pixel p = (px, py, 1) of the result shows the image at the place (x, y) = (q_0, q_1) / q_2, where q = theta p. So
//   grad q = (grad x, grad y, -(x grad x + y grad y)) / q_2
//   grad theta = the sum over the pixels of (grad q) p^T.
// px is constant along a column of the result. So grad q and py grad q are first summed over the rows of each column,
// and these sums are multiplied with px at the end.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#ifndef HOMOGRAPHY_WARP_ROWS_CPU_H
#define HOMOGRAPHY_WARP_ROWS_CPU_H

namespace homography_warp {

struct Warp {
  const float* image;  // [N, C, H, W]
  const float* theta;  // [N, T, 3, 3]
  int64_t views, channels, height, width, result_height, result_width;
  bool nearest, border;
};

}  // namespace homography_warp

#endif

namespace homography_warp::SIMD_TARGET {

constexpr int COLUMNS = 256;  // in a piece: its buffers fit into the first-level cache
constexpr float FAR = 1e4f;   // as in the reference
constexpr float EPS = std::numeric_limits<float>::epsilon();

// Each place in the image has four neighbours: top left, top right, bottom left and bottom right.
struct alignas(64) Piece {
  float px[COLUMNS];
  float x[COLUMNS], y[COLUMNS];              // the place in the image
  float scale_x[COLUMNS], scale_y[COLUMNS];  // by how many pixels it moves with q_0 and q_1; 0 where it is clamped
  int32_t offset[4][COLUMNS];                // where the neighbours lie in a plane of the image; -1: outside
  float value[4][COLUMNS];                   // the image there
  float share_x[COLUMNS], share_y[COLUMNS];  // the weights of the right and of the bottom neighbours
  float grad_x[COLUMNS], grad_y[COLUMNS];    // the gradient by the place, in pixels
  int count;
};

// For each column, sums over the rows.
struct Sums {
  double grad_q[3][COLUMNS], grad_q_times_py[3][COLUMNS];
};

// NaN must be seen, so it is not clamped.
inline float project(float x, float depth) {
  x = depth <= EPS ? FAR : x / depth;
  return x > FAR ? FAR : x < -FAR ? -FAR : x;
}

inline float mix(float first, float second, float share) { return first * (1 - share) + second * share; }

// A value outside is zero. The compiler does not use the gathering instructions by itself.
inline void gather(const float* plane,     // [H, W]
                   const int32_t* offset,  // [count]
                   int count,
                   float* __restrict value) {  // [count]
  int i = 0;
#ifdef SIMD_BYTES
  for (; i + SIMD_BYTES / 4 <= count; i += SIMD_BYTES / 4) {
#if SIMD_BYTES == 64
    const __m512i source = _mm512_loadu_si512(offset + i);
    const __mmask16 inside = _mm512_cmpge_epi32_mask(source, _mm512_setzero_si512());
    _mm512_storeu_ps(value + i, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside, source, plane, 4));
#else
    const __m256i source = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset + i));
    const __m256 inside = _mm256_castsi256_ps(~source);  // the instruction reads the sign bits
    _mm256_storeu_ps(value + i, _mm256_mask_i32gather_ps(_mm256_setzero_ps(), plane, source, inside, 4));
#endif
  }
#endif
  for (; i < count; ++i) value[i] = offset[i] < 0 ? 0 : plane[offset[i]];
}

struct Neighbours {
  int32_t first;
  float share, scale;
};

template <bool NEAREST, bool BORDER> Neighbours neighbours(float position, float depth, float size) {
  const float pixel = ((position + 1) * size - 1) / 2;
  const bool stops = BORDER & (pixel == pixel);                            // at the border; NaN lies outside
  const float lowest = stops ? 0 : -2, highest = stops ? size - 1 : size;  // no neighbour of -2 or of size is inside
  const float near = std::min(std::max(lowest, pixel), highest);           // NaN becomes the lowest
  const float first = NEAREST ? std::nearbyint(near) : std::floor(near);
  const bool moves = (near > lowest) & (near < highest);
  return {static_cast<int32_t>(first), (stops ? near : pixel) - first, moves ? size / 2 / depth : 0};
}

inline void start(const Warp& args, int64_t column, Piece& piece) {
  const float width = args.result_width, first = column;
  piece.count = std::min<int64_t>(COLUMNS, args.result_width - column);
  for (int i = 0; i < piece.count; ++i) piece.px[i] = (2 * (first + i) + 1) / width - 1;
}

inline float row_y(const Warp& args, int64_t row) { return (2.0f * row + 1) / args.result_height - 1; }

template <bool NEAREST, bool BORDER> void locate(const Warp& args, const float* theta,  // [3, 3]
                                                 float py, Piece& piece) {
  const int32_t height = args.height, width = args.width;
  float t[9];
  std::copy_n(theta, 9, t);
  for (int i = 0; i < piece.count; ++i) {
    const float px = piece.px[i], depth = t[6] * px + t[7] * py + t[8];
    const float x = project(t[0] * px + t[1] * py + t[2], depth), y = project(t[3] * px + t[4] * py + t[5], depth);
    const Neighbours in_x = neighbours<NEAREST, BORDER>(x, depth, width);
    const Neighbours in_y = neighbours<NEAREST, BORDER>(y, depth, height);
    const int32_t left = in_x.first, top = in_y.first, offset = top * width + left;
    const bool has_left = (left >= 0) & (left < width), has_right = (left >= -1) & (left < width - 1);
    const bool has_top = (top >= 0) & (top < height), has_bottom = (top >= -1) & (top < height - 1);
    piece.offset[0][i] = has_top & has_left ? offset : -1;
    piece.offset[1][i] = has_top & has_right ? offset + 1 : -1;
    piece.offset[2][i] = has_bottom & has_left ? offset + width : -1;
    piece.offset[3][i] = has_bottom & has_right ? offset + width + 1 : -1;
    piece.share_x[i] = in_x.share;
    piece.share_y[i] = in_y.share;
    piece.scale_x[i] = in_x.scale;
    piece.scale_y[i] = in_y.scale;
    piece.x[i] = x;
    piece.y[i] = y;
  }
}

inline void locate(const Warp& args, const float* theta,  // [3, 3]
                   float py, Piece& piece) {
  (args.nearest  ? args.border ? locate<true, true> : locate<true, false>
   : args.border ? locate<false, true>
                 : locate<false, false>)(args, theta, py, piece);
}

inline void gather_neighbours(const float* plane,  // [H, W]
                              Piece& piece) {
  for (int k = 0; k < 4; ++k) gather(plane, piece.offset[k], piece.count, piece.value[k]);
}

inline void sample(const float* plane,  // [H, W]
                   bool nearest, Piece& piece,
                   float* __restrict result) {  // [count]
  if (nearest) return gather(plane, piece.offset[0], piece.count, result);
  gather_neighbours(plane, piece);
  for (int i = 0; i < piece.count; ++i) {
    const float top = mix(piece.value[0][i], piece.value[1][i], piece.share_x[i]);
    const float bottom = mix(piece.value[2][i], piece.value[3][i], piece.share_x[i]);
    result[i] = mix(top, bottom, piece.share_y[i]);
  }
}

inline void add(float* plane, int32_t offset, float value) {  // plane: [H, W]
  if (offset >= 0) plane[offset] += value;
}

inline void add_to_image(const float* grad,  // [count]
                         bool nearest, const Piece& piece,
                         float* grad_plane) {  // [H, W]
  if (nearest) {
    for (int i = 0; i < piece.count; ++i) add(grad_plane, piece.offset[0][i], grad[i]);
    return;
  }
  for (int i = 0; i < piece.count; ++i) {
    const float right = piece.share_x[i], bottom = piece.share_y[i];
    const float above = grad[i] * (1 - bottom), below = grad[i] * bottom;
    add(grad_plane, piece.offset[0][i], above * (1 - right));
    add(grad_plane, piece.offset[1][i], above * right);
    add(grad_plane, piece.offset[2][i], below * (1 - right));
    add(grad_plane, piece.offset[3][i], below * right);
  }
}

inline void add_to_place(const float* plane,  // [H, W]
                         const float* grad,   // [count]
                         Piece& piece) {
  gather_neighbours(plane, piece);
  for (int i = 0; i < piece.count; ++i) {
    const float top_left = piece.value[0][i], top_right = piece.value[1][i];
    const float bottom_left = piece.value[2][i], bottom_right = piece.value[3][i];
    piece.grad_x[i] += grad[i] * mix(top_right - top_left, bottom_right - bottom_left, piece.share_y[i]);
    piece.grad_y[i] += grad[i] * mix(bottom_left - top_left, bottom_right - top_right, piece.share_x[i]);
  }
}

inline void add_to_sums(const Piece& piece, float py, Sums& sums) {
  for (int i = 0; i < piece.count; ++i) {
    const float grad_0 = piece.scale_x[i] == 0 ? 0 : piece.grad_x[i] * piece.scale_x[i];
    const float grad_1 = piece.scale_y[i] == 0 ? 0 : piece.grad_y[i] * piece.scale_y[i];
    const double grad_q[3] = {grad_0, grad_1, -(grad_0 * piece.x[i] + grad_1 * piece.y[i])};
    for (int k = 0; k < 3; ++k) {
      sums.grad_q[k][i] += grad_q[k];
      sums.grad_q_times_py[k][i] += grad_q[k] * py;
    }
  }
}

inline void add_to_theta(const Piece& piece, const Sums& sums, double* grad_theta) {  // grad_theta: [3, 3]
  for (int k = 0; k < 3; ++k)
    for (int i = 0; i < piece.count; ++i) {
      grad_theta[3 * k] += sums.grad_q[k][i] * piece.px[i];
      grad_theta[3 * k + 1] += sums.grad_q_times_py[k][i];
      grad_theta[3 * k + 2] += sums.grad_q[k][i];
    }
}

// Computes the views [begin, end) of all images.
inline void warp(const Warp& args,
                 float* result,  // [N, T, C, H', W']
                 int64_t begin, int64_t end) {
  const int64_t plane = args.height * args.width, result_plane = args.result_height * args.result_width;
  Piece piece;
  for (int64_t view = begin; view < end; ++view)
    for (int64_t column = 0; column < args.result_width; column += COLUMNS) {
      start(args, column, piece);
      for (int64_t row = 0; row < args.result_height; ++row) {
        locate(args, args.theta + view * 9, row_y(args, row), piece);
        for (int64_t c = 0; c < args.channels; ++c)
          sample(args.image + (view / args.views * args.channels + c) * plane, args.nearest, piece,
                 result + (view * args.channels + c) * result_plane + row * args.result_width + column);
      }
    }
}

// Computes the gradients of the images [begin, end). grad_image starts as zero; either is null if it was not asked for.
inline void backward(const Warp& args,
                     const float* grad,  // [N, T, C, H', W']
                     float* grad_image,  // [N, C, H, W]
                     float* grad_theta,  // [N, T, 3, 3]
                     int64_t begin, int64_t end) {
  const int64_t plane = args.height * args.width, result_plane = args.result_height * args.result_width;
  Piece piece;
  Sums sums;
  for (int64_t view = begin * args.views; view < end * args.views; ++view) {
    double grad_matrix[9] = {};
    for (int64_t column = 0; column < args.result_width; column += COLUMNS) {
      start(args, column, piece);
      sums = {};
      for (int64_t row = 0; row < args.result_height; ++row) {
        const float py = row_y(args, row);
        locate(args, args.theta + view * 9, py, piece);
        std::fill_n(piece.grad_x, piece.count, 0.0f);
        std::fill_n(piece.grad_y, piece.count, 0.0f);
        for (int64_t c = 0; c < args.channels; ++c) {
          const int64_t channel = view / args.views * args.channels + c;
          const float* g = grad + (view * args.channels + c) * result_plane + row * args.result_width + column;
          if (grad_image) add_to_image(g, args.nearest, piece, grad_image + channel * plane);
          if (grad_theta) add_to_place(args.image + channel * plane, g, piece);
        }
        if (grad_theta) add_to_sums(piece, py, sums);
      }
      add_to_theta(piece, sums, grad_matrix);
    }
    if (grad_theta) std::copy_n(grad_matrix, 9, grad_theta + view * 9);
  }
}

}  // namespace homography_warp::SIMD_TARGET
