// Labels are registered to predictions tile by tile; see inverseform_fast/reference/register_labels.py. The eight
// generators move a point (x, y) by polynomials, so the gradient of the objective is made of eight sums over points.
// Points are taken LANES at a time, by loops that the compiler vectorizes, and the order of all sums is fixed. It is
// included once per instruction set.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/cholesky.h"
#include "common/elementary.h"
#include "homography_exp_rows_cpu.h"

#ifndef REGISTER_LABELS_ROWS_CPU_H
#define REGISTER_LABELS_ROWS_CPU_H

namespace register_labels {

constexpr int SIZE = 8;                                         // coefficients of a homography
constexpr int64_t SIDE = 64, BLOCKS = 8, PART = SIDE / BLOCKS;  // points, parts, and points of a part, along x or y
constexpr int64_t POINTS = SIDE * SIDE, LANES = 16;
constexpr int64_t BOX = 3;  // cells over which probabilities are averaged
constexpr float FLOOR = 0.05f, PRIOR = 1, DEAD_ZONE = 3;
constexpr double DAMPING = 0.5, EASED = 0.6, RAISED = 2.5;

struct Arguments {
  const float* probabilities;  // [N, C, full_height, full_width]
  float* roots;                // [N, C, height, width]
  float* logs;                 // [N, C, height, width]
  float* information;          // [N, 3, height, width]: xx, xy, yy
  const int64_t* labels;       // [N, label_height, label_width]
  float* a;                    // [N, rows, columns, SIZE]
  int64_t channels, full_height, full_width, pooled, height, width;
  int64_t label_height, label_width, rows, columns, ignore_index, steps;
  bool last;
};

}  // namespace register_labels

#endif

namespace register_labels::SIMD_TARGET {

// Averages boxes of probabilities, without what lies outside the map, for the rows [begin, end) of all planes.
inline void smooth_rows(const Arguments& args, int64_t begin, int64_t end) {
  std::vector<float> sums(args.full_width);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t y = row % args.height * args.pooled - args.pooled;
    const int64_t top = std::max<int64_t>(0, y), bottom = std::min(args.full_height, y + BOX * args.pooled);
    const float* plane = args.probabilities + row / args.height * args.full_height * args.full_width;
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t i = top; i < bottom; ++i)
      for (int64_t j = 0; j < args.full_width; ++j) sums[j] += plane[i * args.full_width + j];
    float *roots = args.roots + row * args.width, *logs = args.logs + row * args.width;
    for (int64_t x = 0; x < args.width; ++x) {
      const int64_t first = x * args.pooled - args.pooled;
      const int64_t left = std::max<int64_t>(0, first), right = std::min(args.full_width, first + BOX * args.pooled);
      float sum = 0;
      for (int64_t j = left; j < right; ++j) sum += sums[j];
      roots[x] = sum / static_cast<float>((bottom - top) * (right - left)) + FLOOR;
    }
    for (int64_t x = 0; x < args.width; ++x)
      logs[x] = elementary::SIMD_TARGET::log(roots[x]), roots[x] = std::sqrt(roots[x]);
  }
}

// Adds up over the classes what the differences of the roots tell, each over two cells, for rows of all images.
inline void information_rows(const Arguments& args, int64_t begin, int64_t end) {
  const int64_t width = args.width, plane = args.height * width;
  std::vector<float> line(width + 2);  // with its first and its last cell twice
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / args.height, y = row % args.height;
    const int64_t above = y > 0 ? -width : 0, below = y < args.height - 1 ? width : 0;
    float* xx = args.information + 3 * n * plane + y * width;
    float *xy = xx + plane, *yy = xy + plane;
    std::fill_n(xx, width, 0.0f), std::fill_n(xy, width, 0.0f), std::fill_n(yy, width, 0.0f);
    for (int64_t c = 0; c < args.channels; ++c) {
      const float* roots = args.roots + (n * args.channels + c) * plane + y * width;
      std::copy_n(roots, width, line.data() + 1);
      line[0] = roots[0], line[width + 1] = roots[width - 1];
      for (int64_t x = 0; x < width; ++x) {
        const float dx = line[x + 2] - line[x], dy = roots[x + below] - roots[x + above];
        xx[x] += dx * dx, xy[x] += dx * dy, yy[x] += dy * dy;
      }
    }
  }
}

// The points of a tile, part by part.
struct Points {
  float x[POINTS], y[POINTS];

  Points() {
    for (int64_t p = 0; p < POINTS; ++p)
      x[p] = static_cast<float>(2 * column(p) + 1) / SIDE - 1, y[p] = static_cast<float>(2 * row(p) + 1) / SIDE - 1;
  }

  static int64_t row(int64_t p) { return p / (PART * PART) / BLOCKS * PART + p % (PART * PART) / PART; }
  static int64_t column(int64_t p) { return p / (PART * PART) % BLOCKS * PART + p % PART; }
};

// Eight sums over points, LANES of each at a time: what the gradient by the coefficients is made of.
struct Moments {
  float sums[SIZE][LANES] = {};

  FN void add(int lane, float x, float y, float slope_x, float slope_y) {
    const float radial = slope_x * x + slope_y * y;
    sums[0][lane] += slope_x, sums[1][lane] += slope_y;
    sums[2][lane] += slope_y * x - slope_x * y, sums[3][lane] += radial;
    sums[4][lane] += slope_x * x - slope_y * y, sums[5][lane] += slope_x * y + slope_y * x;
    sums[6][lane] -= radial * x, sums[7][lane] -= radial * y;
  }

  void gradient(double (&result)[SIZE]) const {
    constexpr double UNIT = 0.70710678118654752440;
    for (int k = 0; k < SIZE; ++k) {
      double sum = 0;
      for (int lane = 0; lane < LANES; ++lane) sum += sums[k][lane];
      result[k] = k < 2 ? sum : UNIT * sum;
    }
  }
};

class Tile {
 public:
  Tile(const Arguments& args, const Points& points, int64_t tile)
      : args(args),
        points(points),
        n(tile / (args.rows * args.columns)),
        scale_x(static_cast<float>(args.width) / static_cast<float>(args.columns + 1)),
        scale_y(static_cast<float>(args.height) / static_cast<float>(args.rows + 1)) {
    const int64_t row = tile / args.columns % args.rows, column = tile % args.columns;
    middle_x = static_cast<float>(column + 1) * scale_x - 0.5f;
    middle_y = static_cast<float>(row + 1) * scale_y - 0.5f;
    read_labels(row, column);
    if (several) measure_curvature();
  }

  // Climbs from a, which the result replaces; false if the tile says nothing.
  bool climb(float* a) {
    if (!several) return false;
    double best[SIZE] = {}, gradient[SIZE] = {}, trial[SIZE], new_gradient[SIZE];
    std::copy_n(a, SIZE, trial);
    double value = -std::numeric_limits<double>::infinity(), damping = DAMPING / EASED;  // the first place helps
    for (int64_t step = 0; step <= args.steps; ++step) {
      const double new_value = objective(trial, new_gradient, nullptr);
      const bool better = new_value > value;
      damping *= better ? EASED : RAISED;
      if (better) {
        value = new_value;
        std::copy_n(trial, SIZE, best), std::copy_n(new_gradient, SIZE, gradient);
      }
      std::copy_n(gradient, SIZE, trial);
      solve(damping, trial);
      for (int k = 0; k < SIZE; ++k) trial[k] += best[k];
    }
    std::copy_n(best, SIZE, a);
    return true;
  }

  // Whether |a|^2 is above what noise lets expect.
  bool exceeds_noise(const float* a) {
    double at[SIZE], length = 0, gradient[SIZE], noise = 0;
    for (int k = 0; k < SIZE; ++k) at[k] = a[k], length += at[k] * at[k];
    Moments parts[BLOCKS * BLOCKS];
    objective(at, gradient, parts);
    double mean[SIZE] = {}, factor[SIZE][SIZE], errors[BLOCKS * BLOCKS][SIZE];
    for (int part = 0; part < BLOCKS * BLOCKS; ++part) {
      parts[part].gradient(errors[part]);
      for (int k = 0; k < SIZE; ++k) mean[k] += errors[part][k] / (BLOCKS * BLOCKS);
    }
    factorized(1, factor);
    for (auto& error : errors) {
      for (int k = 0; k < SIZE; ++k) error[k] -= mean[k];
      cholesky::SIMD_TARGET::substitute(factor, error);
      for (int k = 0; k < SIZE; ++k) noise += error[k] * error[k];
    }
    return length > DEAD_ZONE * noise;
  }

 private:
  // Reads the class and the weight of each point.
  void read_labels(int64_t row, int64_t column) {
    const int64_t* labels = args.labels + n * args.label_height * args.label_width;
    int64_t count = 0, least = args.channels, greatest = -1;
    for (int64_t p = 0; p < POINTS; ++p) {
      const int64_t y = (row * SIDE + 2 * Points::row(p) + 1) * args.label_height / (SIDE * (args.rows + 1));
      const int64_t x = (column * SIDE + 2 * Points::column(p) + 1) * args.label_width / (SIDE * (args.columns + 1));
      const int64_t id = labels[y * args.label_width + x];
      const bool valid = id != args.ignore_index && id >= 0 && id < args.channels;
      plane[p] = static_cast<int32_t>(valid ? id * args.height * args.width : 0);
      weight[p] = valid ? 1.0f : 0.0f;
      count += valid;
      if (valid) least = std::min(least, id), greatest = std::max(greatest, id);
    }
    several = least < greatest;
    for (float& each : weight) each /= static_cast<float>(std::max<int64_t>(count, 1));
  }

  struct Corner {
    int32_t first;  // the cell above and to the left of a place
    float u, v;     // the shares of the cells to the right and below
  };

  FN Corner corner(float x, float y) const {
    const float most_x = static_cast<float>(args.width - 1), most_y = static_cast<float>(args.height - 1);
    x = x > 0 ? x : 0, y = y > 0 ? y : 0;  // a place that is none (NaN) becomes 0
    x = x < most_x ? x : most_x, y = y < most_y ? y : most_y;
    const int32_t last_x = static_cast<int32_t>(args.width) - 2, last_y = static_cast<int32_t>(args.height) - 2;
    int32_t left = static_cast<int32_t>(x), top = static_cast<int32_t>(y);
    left = left < last_x ? left : last_x, top = top < last_y ? top : last_y;
    left = left < 0 ? 0 : left, top = top < 0 ? 0 : top;
    return {top * static_cast<int32_t>(args.width) + left, x - static_cast<float>(left), y - static_cast<float>(top)};
  }

  void measure_curvature() {
    const float* maps = args.information + 3 * n * args.height * args.width;
    const int32_t right = args.width > 1, below = args.height > 1 ? static_cast<int32_t>(args.width) : 0;
    float sums[SIZE][SIZE][LANES] = {};
    for (int64_t first = 0; first < POINTS; first += LANES) {
      float read[3][LANES], along_x[SIZE][LANES], along_y[SIZE][LANES];
      for (int lane = 0; lane < LANES; ++lane) {
        constexpr float UNIT = 0.70710678f;
        const int64_t p = first + lane;
        const float x = points.x[p], y = points.y[p], ux = UNIT * x, uy = UNIT * y;
        const Corner at = corner(x * scale_x + middle_x, y * scale_y + middle_y);
        for (int part = 0; part < 3; ++part) {
          const float* map = maps + part * args.height * args.width + at.first;
          const float upper = map[0] + at.u * (map[right] - map[0]);
          const float lower = map[below] + at.u * (map[below + right] - map[below]);
          read[part][lane] = weight[p] * (upper + at.v * (lower - upper));
        }
        along_x[0][lane] = 1, along_x[1][lane] = 0, along_x[2][lane] = -uy, along_x[3][lane] = ux;
        along_x[4][lane] = ux, along_x[5][lane] = uy, along_x[6][lane] = -ux * x, along_x[7][lane] = -ux * y;
        along_y[0][lane] = 0, along_y[1][lane] = 1, along_y[2][lane] = ux, along_y[3][lane] = uy;
        along_y[4][lane] = -uy, along_y[5][lane] = ux, along_y[6][lane] = -ux * y, along_y[7][lane] = -uy * y;
      }
      for (int i = 0; i < SIZE; ++i)
        for (int j = 0; j <= i; ++j)
          for (int lane = 0; lane < LANES; ++lane) {
            const float xx = read[0][lane] * scale_x * scale_x, xy = read[1][lane] * scale_x * scale_y;
            const float yy = read[2][lane] * scale_y * scale_y;
            sums[i][j][lane] += (xx * along_x[i][lane] + xy * along_y[i][lane]) * along_x[j][lane] +
                                (xy * along_x[i][lane] + yy * along_y[i][lane]) * along_y[j][lane];
          }
    }
    for (int i = 0; i < SIZE; ++i)
      for (int j = 0; j <= i; ++j) {
        curvature[i][j] = 0;
        for (int lane = 0; lane < LANES; ++lane) curvature[i][j] += sums[i][j][lane];
      }
  }

  // Returns the objective at a, and its gradient; and the moments of each part, if they are asked for.
  double objective(const double (&a)[SIZE], double (&gradient)[SIZE], Moments* parts) const {
    float opposite[SIZE], theta[9], values[LANES] = {};
    double length = 0;
    for (int k = 0; k < SIZE; ++k) opposite[k] = static_cast<float>(-a[k]), length += a[k] * a[k];
    homography_exp::SIMD_TARGET::exponential(opposite, theta, 1);
    const float* logs = args.logs + n * args.channels * args.height * args.width;
    const int32_t right = args.width > 1, below = args.height > 1 ? static_cast<int32_t>(args.width) : 0;
    Moments all;
    for (int64_t first = 0; first < POINTS; first += LANES) {
      float slope_x[LANES], slope_y[LANES];
      for (int lane = 0; lane < LANES; ++lane) {
        const int64_t p = first + lane;
        const float x = points.x[p], y = points.y[p];
        const float depth = 1 / (theta[6] * x + theta[7] * y + theta[8]);
        const float moved_x = (theta[0] * x + theta[1] * y + theta[2]) * depth;
        const float moved_y = (theta[3] * x + theta[4] * y + theta[5]) * depth;
        const Corner at = corner(moved_x * scale_x + middle_x, moved_y * scale_y + middle_y);
        const float* map = logs + (plane[p] + at.first);
        const float upper_left = map[0], upper_right = map[right];
        const float lower_left = map[below], lower_right = map[below + right];
        const float upper = upper_left + at.u * (upper_right - upper_left);
        const float lower = lower_left + at.u * (lower_right - lower_left);
        const float across = (upper_right - upper_left) * (1 - at.v) + (lower_right - lower_left) * at.v;
        values[lane] += weight[p] * (upper + at.v * (lower - upper));
        slope_x[lane] = -weight[p] * scale_x * across, slope_y[lane] = -weight[p] * scale_y * (lower - upper);
      }
      for (int lane = 0; lane < LANES; ++lane)
        all.add(lane, points.x[first + lane], points.y[first + lane], slope_x[lane], slope_y[lane]);
      if (parts)
        for (int lane = 0; lane < LANES; ++lane)
          parts[first / (PART * PART)].add(lane, points.x[first + lane], points.y[first + lane], slope_x[lane],
                                           slope_y[lane]);
    }
    all.gradient(gradient);
    double value = -PRIOR * length;
    for (int k = 0; k < SIZE; ++k) gradient[k] -= 2 * PRIOR * a[k];
    for (float each : values) value += each;
    return value;
  }

  void factorized(double damping, double (&factor)[SIZE][SIZE]) const {
    for (int i = 0; i < SIZE; ++i)
      for (int j = 0; j <= i; ++j) factor[i][j] = damping * curvature[i][j] + (i == j ? 2 * PRIOR : 0);
    cholesky::SIMD_TARGET::factorize(factor);
  }

  void solve(double damping, double (&vector)[SIZE]) const {
    double factor[SIZE][SIZE];
    factorized(damping, factor);
    cholesky::SIMD_TARGET::substitute(factor, vector);
  }

  const Arguments& args;
  const Points& points;
  const int64_t n;
  const float scale_x, scale_y;  // cells for a unit of the tile's coordinates
  float middle_x, middle_y;      // the tile's middle, in cells
  bool several;                  // classes
  int32_t plane[POINTS];         // where the logarithms of the point's class begin
  float weight[POINTS];
  double curvature[SIZE][SIZE];  // its lower half
};

inline void register_tiles(const Arguments& args, int64_t begin, int64_t end) {
  const Points points;
  for (int64_t index = begin; index < end; ++index) {
    float* a = args.a + SIZE * index;
    Tile tile(args, points, index);
    if (!tile.climb(a) || (args.last && !tile.exceeds_noise(a))) std::fill_n(a, SIZE, 0.0f);
  }
}

}  // namespace register_labels::SIMD_TARGET
