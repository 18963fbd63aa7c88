// The warp and its gradients for the instruction set SIMD_TARGET, by pieces of rows. The compiler makes vector
// instructions of the loops over their pixels, except where these add to the image's gradient.

namespace homography_warp::SIMD_TARGET {

constexpr int COLUMNS = 256;  // of a piece: its buffers fit into the first-level cache
constexpr float FAR = 1e4f;   // as in the reference
constexpr float EPS = std::numeric_limits<float>::epsilon();

// A piece of a row of the result.
struct alignas(64) Piece {
  float px[COLUMNS];                         // theta p is a pixel's place in the image
  float x[COLUMNS], y[COLUMNS];              // that place, divided by its depth
  float scale_x[COLUMNS], scale_y[COLUMNS];  // how many pixels that moves with theta p; 0 where it is clamped
  int32_t offset[4][COLUMNS];  // in a plane of the image, of top left, top right, bottom left, bottom right; -1 outside
  float value[4][COLUMNS];     // of the image there
  float share_x[COLUMNS], share_y[COLUMNS];  // of the right and of the bottom neighbours
  float by_x[COLUMNS], by_y[COLUMNS];        // gradient by the place, in pixels
  int count;
};

// Sums over rows, for each column: of the gradient by the three rows of theta p, and of that times the row's y.
struct Sums {
  double by[3][COLUMNS], by_times_y[3][COLUMNS];
};

// NaN stays: it must be seen, not clamped away.
inline float project(float x, float depth) {
  x = depth <= EPS ? FAR : x / depth;
  return x > FAR ? FAR : x < -FAR ? -FAR : x;
}

inline float mix(float first, float second, float share) { return first * (1 - share) + second * share; }

// Zero outside; by instructions that the compiler does not use by itself.
inline void gather(const float* plane, const int32_t* offset, int count, float* __restrict value) {
  int i = 0;
#ifdef SIMD_BYTES
  for (; i + SIMD_BYTES / 4 <= count; i += SIMD_BYTES / 4) {
#if SIMD_BYTES == 64
    const __m512i from = _mm512_loadu_si512(offset + i);
    const __mmask16 inside = _mm512_cmpge_epi32_mask(from, _mm512_setzero_si512());
    _mm512_storeu_ps(value + i, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside, from, plane, 4));
#else
    const __m256i from = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset + i));
    const __m256 inside = _mm256_castsi256_ps(~from);  // the sign bits count
    _mm256_storeu_ps(value + i, _mm256_mask_i32gather_ps(_mm256_setzero_ps(), plane, from, inside, 4));
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
  const float lowest = BORDER ? 0 : -2, highest = BORDER ? size - 1 : size;  // without border: no neighbour is inside
  const float pixel = ((position + 1) * size - 1) / 2;
  const float near = std::min(std::max(lowest, pixel), highest);  // NaN is the lowest
  const float first = NEAREST ? std::nearbyint(near) : std::floor(near);
  const bool moves = (near > lowest) & (near < highest);
  return {static_cast<int32_t>(first), (BORDER ? near : pixel) - first, moves ? size / 2 / depth : 0};
}

inline void start(const Warp& of, int64_t column, Piece& piece) {
  const float width = of.result_width, first = column;
  piece.count = std::min<int64_t>(COLUMNS, of.result_width - column);
  for (int i = 0; i < piece.count; ++i) piece.px[i] = (2 * (first + i) + 1) / width - 1;
}

inline float y_of(const Warp& of, int64_t row) { return (2.0f * row + 1) / of.result_height - 1; }

template <bool NEAREST, bool BORDER> void locate(const Warp& of, const float* theta, float py, Piece& piece) {
  const int32_t height = of.height, width = of.width;
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

inline void locate(const Warp& of, const float* theta, float py, Piece& piece) {
  (of.nearest  ? of.border ? locate<true, true> : locate<true, false>
   : of.border ? locate<false, true>
               : locate<false, false>)(of, theta, py, piece);
}

inline void gather_neighbours(const float* plane, Piece& piece) {
  for (int k = 0; k < 4; ++k) gather(plane, piece.offset[k], piece.count, piece.value[k]);
}

inline void sample(const float* plane, bool nearest, Piece& piece, float* __restrict result) {
  if (nearest) return gather(plane, piece.offset[0], piece.count, result);
  gather_neighbours(plane, piece);
  for (int i = 0; i < piece.count; ++i) {
    const float top = mix(piece.value[0][i], piece.value[1][i], piece.share_x[i]);
    const float bottom = mix(piece.value[2][i], piece.value[3][i], piece.share_x[i]);
    result[i] = mix(top, bottom, piece.share_y[i]);
  }
}

inline void add(float* plane, int32_t offset, float value) {
  if (offset >= 0) plane[offset] += value;
}

inline void add_to_image(const float* grad, bool nearest, const Piece& piece, float* plane) {
  if (nearest) {
    for (int i = 0; i < piece.count; ++i) add(plane, piece.offset[0][i], grad[i]);
    return;
  }
  for (int i = 0; i < piece.count; ++i) {
    const float right = piece.share_x[i], bottom = piece.share_y[i];
    const float above = grad[i] * (1 - bottom), below = grad[i] * bottom;
    add(plane, piece.offset[0][i], above * (1 - right));
    add(plane, piece.offset[1][i], above * right);
    add(plane, piece.offset[2][i], below * (1 - right));
    add(plane, piece.offset[3][i], below * right);
  }
}

inline void add_to_position(const float* plane, const float* grad, Piece& piece) {
  gather_neighbours(plane, piece);
  for (int i = 0; i < piece.count; ++i) {
    const float top_left = piece.value[0][i], top_right = piece.value[1][i];
    const float bottom_left = piece.value[2][i], bottom_right = piece.value[3][i];
    piece.by_x[i] += grad[i] * mix(top_right - top_left, bottom_right - bottom_left, piece.share_y[i]);
    piece.by_y[i] += grad[i] * mix(bottom_left - top_left, bottom_right - top_right, piece.share_x[i]);
  }
}

inline void add_to_sums(const Piece& piece, float py, Sums& sums) {
  for (int i = 0; i < piece.count; ++i) {
    const float by_x = piece.scale_x[i] == 0 ? 0 : piece.by_x[i] * piece.scale_x[i];
    const float by_y = piece.scale_y[i] == 0 ? 0 : piece.by_y[i] * piece.scale_y[i];
    const double by[3] = {by_x, by_y, -(by_x * piece.x[i] + by_y * piece.y[i])};
    for (int k = 0; k < 3; ++k) {
      sums.by[k][i] += by[k];
      sums.by_times_y[k][i] += by[k] * py;
    }
  }
}

inline void add_to_theta(const Piece& piece, const Sums& sums, double* grad_theta) {
  for (int k = 0; k < 3; ++k)
    for (int i = 0; i < piece.count; ++i) {
      grad_theta[3 * k] += sums.by[k][i] * piece.px[i];
      grad_theta[3 * k + 1] += sums.by_times_y[k][i];
      grad_theta[3 * k + 2] += sums.by[k][i];
    }
}

// Of the views from begin to end.
inline void warp(const Warp& of, float* result, int64_t begin, int64_t end) {
  const int64_t plane = of.height * of.width, result_plane = of.result_height * of.result_width;
  Piece piece;
  for (int64_t view = begin; view < end; ++view)
    for (int64_t column = 0; column < of.result_width; column += COLUMNS) {
      start(of, column, piece);
      for (int64_t row = 0; row < of.result_height; ++row) {
        locate(of, of.theta + view * 9, y_of(of, row), piece);
        for (int64_t c = 0; c < of.channels; ++c)
          sample(of.image + (view / of.views * of.channels + c) * plane, of.nearest, piece,
                 result + (view * of.channels + c) * result_plane + row * of.result_width + column);
      }
    }
}

// Of the images from begin to end; grad_image and grad_theta are zero, or null where not asked for.
inline void backward(const Warp& of, const float* grad, float* grad_image, float* grad_theta, int64_t begin,
                     int64_t end) {
  const int64_t plane = of.height * of.width, result_plane = of.result_height * of.result_width;
  Piece piece;
  Sums sums;
  for (int64_t view = begin * of.views; view < end * of.views; ++view) {
    double by_theta[9] = {};
    for (int64_t column = 0; column < of.result_width; column += COLUMNS) {
      start(of, column, piece);
      sums = {};
      for (int64_t row = 0; row < of.result_height; ++row) {
        const float py = y_of(of, row);
        locate(of, of.theta + view * 9, py, piece);
        std::fill_n(piece.by_x, piece.count, 0.0f);
        std::fill_n(piece.by_y, piece.count, 0.0f);
        for (int64_t c = 0; c < of.channels; ++c) {
          const int64_t channel = view / of.views * of.channels + c;
          const float* g = grad + (view * of.channels + c) * result_plane + row * of.result_width + column;
          if (grad_image) add_to_image(g, of.nearest, piece, grad_image + channel * plane);
          if (grad_theta) add_to_position(of.image + channel * plane, g, piece);
        }
        if (grad_theta) add_to_sums(piece, py, sums);
      }
      add_to_theta(piece, sums, by_theta);
    }
    if (grad_theta) std::copy_n(by_theta, 9, grad_theta + view * 9);
  }
}

}  // namespace homography_warp::SIMD_TARGET
