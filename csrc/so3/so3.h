// so3: the nearest rotation P of a 3x3 matrix, and the geodesic distance of M = theta^-1 theta_hat from the identity.
//
// T is float or double, or a vector of them (lanes.h). No branch depends on a single value, only on `any` of those of a
// warp's threads or a vector's lanes. In what follows vee(A) = (A32 - A23, A13 - A31, A21 - A12), [y]x z = y x z,
// H = P^T M, K = tr(H) I - H, s1 >= s2 >= s3 are the singular values, and sigma is the sign of det M.
// docs/design/so3.md names the formulas' sources. It is included once per instruction set.

#include <cstdint>

#include "so3/arguments.h"
#include "so3/scalar.h"

namespace so3::SIMD_TARGET {

constexpr double TINY = 1e-30;  // below every number that matters in a matrix scaled to 1
constexpr double NEAR = 0.2;    // |M - I|_F below which Newton's method needs no better start than the identity
template <class T> constexpr bool SINGLE = sizeof(Scalar<T>) == 4;
template <class T> constexpr int SWEEPS = SINGLE<T> ? 3 : 4;
template <class T> constexpr int NEWTON_STEPS = SINGLE<T> ? 1 : 2;
template <class T> constexpr double NOISE = SINGLE<T> ? 0x1p-21 : 0x1p-46;

// ---- vectors, matrices by columns, symmetric matrices, quaternions

template <class T> struct Vec {
  T x, y, z;
  FN Vec operator+(const Vec& o) const { return {x + o.x, y + o.y, z + o.z}; }
  FN Vec operator-(const Vec& o) const { return {x - o.x, y - o.y, z - o.z}; }
  FN Vec operator*(const T& s) const { return {x * s, y * s, z * s}; }
};

template <class T> FN T dot(const Vec<T>& a, const Vec<T>& b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

template <class T> FN Vec<T> cross(const Vec<T>& a, const Vec<T>& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class T, class Mask> FN Vec<T> select(const Mask& mask, const Vec<T>& a, const Vec<T>& b) {
  return {select(mask, a.x, b.x), select(mask, a.y, b.y), select(mask, a.z, b.z)};
}

template <class T> struct Matrix {
  Vec<T> x, y, z;
  FN Matrix operator+(const Matrix& o) const { return {x + o.x, y + o.y, z + o.z}; }
  FN Matrix operator-(const Matrix& o) const { return {x - o.x, y - o.y, z - o.z}; }
  FN Matrix operator*(const T& s) const { return {x * s, y * s, z * s}; }
  FN Vec<T> operator*(const Vec<T>& v) const { return x * v.x + y * v.y + z * v.z; }
  FN Matrix operator*(const Matrix& o) const { return {*this * o.x, *this * o.y, *this * o.z}; }
  FN Matrix transposed() const { return {{x.x, y.x, z.x}, {x.y, y.y, z.y}, {x.z, y.z, z.z}}; }
};

template <class T, class Mask> FN Matrix<T> select(const Mask& mask, const Matrix<T>& a, const Matrix<T>& b) {
  return {select(mask, a.x, b.x), select(mask, a.y, b.y), select(mask, a.z, b.z)};
}

template <class T> FN T trace(const Matrix<T>& m) { return m.x.x + m.y.y + m.z.z; }
template <class T> FN T sum(const Vec<T>& v) { return v.x + v.y + v.z; }
template <class T> FN T dot(const Matrix<T>& a, const Matrix<T>& b) {
  return dot(a.x, b.x) + dot(a.y, b.y) + dot(a.z, b.z);
}
template <class T> FN Vec<T> vee(const Matrix<T>& m) { return {m.y.z - m.z.y, m.z.x - m.x.z, m.x.y - m.y.x}; }
template <class T> FN Matrix<T> diagonal(const T& d) { return {{d, 0, 0}, {0, d, 0}, {0, 0, d}}; }

template <class T> FN T largest(const Vec<T>& v) { return max(max(abs(v.x), abs(v.y)), abs(v.z)); }
template <class T> FN T power_of_two(const Matrix<T>& m) {  // it brings the largest entry into [2, 4)
  return inverse_power_of_two(max(max(largest(m.x), largest(m.y)), largest(m.z)));
}

template <class T> struct Symmetric {
  T xx, yy, zz, yz, zx, xy;
};

template <class T> struct Quaternion {
  T w;
  Vec<T> v;
};

template <class T> FN Quaternion<T> operator*(const Quaternion<T>& a, const Quaternion<T>& b) {
  return {a.w * b.w - dot(a.v, b.v), b.v * a.w + a.v * b.w + cross(a.v, b.v)};
}

template <class T> FN Quaternion<T> unit(const Quaternion<T>& q) {  // w >= 0
  const T length = rsqrt(q.w * q.w + dot(q.v, q.v)), sign = copysign(length, q.w);
  return {q.w * sign, q.v * sign};
}

template <class T> FN Matrix<T> rotation_minus_eye(const Quaternion<T>& q) {  // 2 w [v]x + 2 [v]x^2
  const Vec<T> d = q.v * T(2), w = d * q.w;
  const T xx = d.x * q.v.x, yy = d.y * q.v.y, zz = d.z * q.v.z, yz = d.y * q.v.z, zx = d.z * q.v.x, xy = d.x * q.v.y;
  return {{-(yy + zz), xy + w.z, zx - w.y}, {xy - w.z, -(zz + xx), yz + w.x}, {zx + w.y, yz - w.x, -(xx + yy)}};
}

// Makes a quaternion of any length, from its largest component.
template <class T> FN Quaternion<T> quaternion(const Matrix<T>& r) {
  const T xx = r.x.x, yy = r.y.y, zz = r.z.z;
  const T w2 = T(1) + xx + yy + zz, x2 = T(1) + xx - yy - zz, y2 = T(1) - xx + yy - zz, z2 = T(1) - xx - yy + zz;
  const Vec<T> v = vee(r), s = {r.y.z + r.z.y, r.z.x + r.x.z, r.x.y + r.y.x};
  const auto z_wins = z2 > y2, x_wins = x2 > w2;
  const T yz2 = select(z_wins, z2, y2), wx2 = select(x_wins, x2, w2);
  const auto yz_wins = yz2 > wx2;
  const Vec<T> from_yz = select(z_wins, Vec<T>{s.y, s.x, z2}, Vec<T>{s.z, y2, s.x});
  const Vec<T> from_wx = select(x_wins, Vec<T>{x2, s.z, s.y}, v);
  return {select(yz_wins, select(z_wins, v.z, v.y), select(x_wins, v.x, w2)), select(yz_wins, from_yz, from_wx)};
}

// ---- solving for K

template <class T> FN Symmetric<T> k_matrix(const Matrix<T>& h) {  // K, from the symmetric part of H
  const T half(0.5);
  return {h.y.y + h.z.z,           h.z.z + h.x.x,           h.x.x + h.y.y,
          (h.y.z + h.z.y) * -half, (h.z.x + h.x.z) * -half, (h.x.y + h.y.x) * -half};
}

// Solves by LDL^T, because Cramer's rule would square the condition number. A pivot of rounding noise counts as 0:
// along it any answer is as good as 0.
template <class T> FN Vec<T> solve(const Symmetric<T>& k, const Vec<T>& b) {
  const T noise = T(NOISE<T>) * (k.xx + k.yy + k.zz);
  const auto inverse = [&](const T& pivot) { return select(pivot > noise, divide(T(1), pivot), T(0)); };
  const T x = inverse(k.xx), l_yx = k.xy * x, l_zx = k.zx * x;
  const T y = inverse(k.yy - l_yx * k.xy), r_zy = k.yz - l_yx * k.zx, l_zy = r_zy * y;
  const T z = inverse(k.zz - l_zx * k.zx - l_zy * r_zy);
  const T b_y = b.y - l_yx * b.x, b_z = (b.z - l_zx * b.x - l_zy * b_y) * z, c_y = b_y * y - l_zy * b_z;
  return {b.x * x - l_yx * c_y - l_zx * b_z, c_y, b_z};
}

template <class T> struct Complex {
  T re, im;
  FN Complex operator-(const Complex& o) const { return {re - o.re, im - o.im}; }
  FN Complex operator*(const Complex& o) const { return {re * o.re - im * o.im, re * o.im + im * o.re}; }
  FN Complex inverse() const {
    const T s = divide(T(1), re * re + im * im);
    return {re * s, -(im * s)};
  }
};

// (K^2 + d^2 I)^-1 K b is the real part of (K + i d I)^-1 b, which does not square the condition number.
template <class T> FN Vec<T> solve_damped(const Symmetric<T>& k, const Vec<T>& b, const T& d) {
  using C = Complex<T>;
  const C xy{k.xy, 0}, zx{k.zx, 0}, x = C{k.xx, d}.inverse(), l_yx = xy * x, l_zx = zx * x;
  const C y = (C{k.yy, d} - l_yx * xy).inverse(), r_zy = C{k.yz, 0} - l_yx * zx, l_zy = r_zy * y;
  const C z = (C{k.zz, d} - l_zx * zx - l_zy * r_zy).inverse();
  const C b_x{b.x, 0}, b_y = C{b.y, 0} - l_yx * b_x;
  const C b_z = (C{b.z, 0} - l_zx * b_x - l_zy * b_y) * z, c_y = b_y * y - l_zy * b_z;
  return {(b_x * x - l_yx * c_y - l_zx * b_z).re, c_y.re, b_z.re};
}

// ---- the nearest rotation: Gram, Jacobi, deflation, Newton

template <class T> FN void jacobi(T& pp, T& qq, T& pq, T& rp, T& rq, Vec<T>& v_p, Vec<T>& v_q) {
  const T d = qq - pp, g = pq + pq;
  const T t = divide(g, d + copysign(sqrt(d * d + g * g) + T(TINY), d));
  const T c = rsqrt(T(1) + t * t), s = t * c, p = rp;
  const Vec<T> v = v_p;
  pp = pp - t * pq;
  qq = qq + t * pq;
  pq = T(0);
  rp = c * p - s * rq;
  rq = s * p + c * rq;
  v_p = v * c - v_q * s;
  v_q = v * s + v_q * c;
}

// The matrix must be scaled to 1. v1 is an eigenvector of M^T M, s1 = |M v1| and u1 = M v1 / s1. A 2x2 matrix is left,
// whose nearest rotation [p -r; r p] is exact whatever the sign of det M and the rank.
template <class T> FN Matrix<T> rotation_by_deflation(const Matrix<T>& m, T& s1) {
  Symmetric<T> s = {dot(m.x, m.x), dot(m.y, m.y), dot(m.z, m.z), dot(m.y, m.z), dot(m.z, m.x), dot(m.x, m.y)};
  Matrix<T> v = diagonal(T(1));
  for (int sweep = 0; sweep < SWEEPS<T>; ++sweep) {
    jacobi(s.xx, s.yy, s.xy, s.zx, s.yz, v.x, v.y);
    jacobi(s.yy, s.zz, s.yz, s.xy, s.zx, v.y, v.z);
    jacobi(s.zz, s.xx, s.zx, s.yz, s.xy, v.z, v.x);
  }
  const auto y_wins = s.yy > s.xx, z_wins = s.zz > max(s.xx, s.yy);
  const Vec<T> v1 = select(z_wins, v.z, select(y_wins, v.y, v.x));
  const Vec<T> v2 = select(z_wins, v.x, select(y_wins, v.z, v.y));
  const Vec<T> v3 = select(z_wins, v.y, select(y_wins, v.x, v.z));

  const Vec<T> m1 = m * v1, m2 = m * v2, m3 = m * v3;
  const T square = dot(m1, m1), over_s1 = rsqrt(max(square, T(TINY)));
  s1 = square * over_s1;
  const Vec<T> u1 = select(square > T(TINY), m1 * over_s1, v1);
  // The shortest turn of v1 to u1, or to -u1 if that is nearer, is applied to v2 and v3, too.
  const T sign = copysign(T(1), dot(u1, v1));
  const Vec<T> target = u1 * sign, middle = (target + v1) * divide(T(1), T(1) + dot(target, v1));
  const Vec<T> b2 = v2 - middle * dot(target, v2), b3 = (v3 - middle * dot(target, v3)) * sign;
  const T p = dot(b2, m2) + dot(b3, m3), r = dot(b3, m2) - dot(b2, m3);
  const T length = p * p + r * r, scale = rsqrt(max(length, T(TINY)));
  const T cosine = select(length > T(TINY), p * scale, T(1)), sine = select(length > T(TINY), r * scale, T(0));
  const Vec<T> u2 = b2 * cosine + b3 * sine, u3 = b3 * cosine - b2 * sine;
  return {u1 * v1.x + u2 * v2.x + u3 * v3.x, u1 * v1.y + u2 * v2.y + u3 * v3.y, u1 * v1.z + u2 * v2.z + u3 * v3.z};
}

template <class T> FN Matrix<T> rotation(const Quaternion<T>& q) { return rotation_minus_eye(q) + diagonal(T(1)); }

// The matrix must be scaled to 1; skew is vee(M), and near says that |M - I| < NEAR before scaling. The vector part of
// the result is accurate relative to itself.
template <class T> FN Quaternion<T> nearest(const Matrix<T>& m, const Vec<T>& skew, bool near, T& s1) {
  Quaternion<T> q = {1, {0, 0, 0}};
  if (!near) q = unit(quaternion(rotation_by_deflation(m, s1)));
  for (int step = 0; step < NEWTON_STEPS<T>; ++step) {  // w = K^-1 vee(H), q <- q (1, w / 2): cubic convergence
    const Matrix<T> h = rotation(q).transposed() * m;
    const Vec<T> w = solve(k_matrix(h), vee(h)) * T(0.5);
    q = unit(q * Quaternion<T>{1, w});
  }
  // Near the identity, Davenport's eigen-equation gives g = v / w without rounding 1 + small.
  const T lambda = dot(rotation(q), m) + trace(m);
  const Symmetric<T> k = {lambda - T(2) * m.x.x, lambda - T(2) * m.y.y, lambda - T(2) * m.z.z,
                          -(m.y.z + m.z.y),      -(m.z.x + m.x.z),      -(m.x.y + m.y.x)};
  const Quaternion<T> finished = unit(Quaternion<T>{1, solve(k, skew)});
  const auto small = q.w > T(0.9);
  return {select(small, finished.w, q.w), select(small, finished.v, q.v)};
}

template <class T> FN bool is_near(const Matrix<T>& minus_eye) {
  return !any(dot(minus_eye, minus_eye) > T(NEAR * NEAR));
}

template <class T> FN T angle(const T& sine, const T& cosine) {  // 2 atan2(sine, cosine), both at least 0
  const T x = divide(min(sine, cosine), T(1) + max(sine, cosine)), square = -(x * x);  // x <= tan(pi / 8)
  constexpr int TERMS = SINGLE<T> ? 9 : 21;
  T atan(0);
  for (int n = TERMS - 1; n >= 0; --n) atan = atan * square + T(1.0 / (2 * n + 1));
  atan = atan * x * T(4);
  return select(sine > cosine, T(3.141592653589793) - atan, atan);
}

template <class T> FN Matrix<T> project(const Matrix<T>& matrix) {
  const Matrix<T> m = matrix * power_of_two(matrix);
  T s1;
  return rotation(nearest(m, vee(m), is_near(matrix - diagonal(T(1))), s1));
}

// Returns P [y]x.
template <class T> FN Matrix<T> times_cross(const Matrix<T>& p, const Vec<T>& y) {
  return {p.y * y.z - p.z * y.y, p.z * y.x - p.x * y.z, p.x * y.y - p.y * y.x};
}

// The result is P [K^-1 vee(P^T F)]x for the gradient F by P. P^T M = H stays symmetric: with dP = P [w]x this gives
// K w = vee(P^T dM), and <F, dP> = vee(P^T F) . w.
template <class T> FN Matrix<T> project_backward(const Matrix<T>& f, const Matrix<T>& matrix, const Matrix<T>& p) {
  const T scale = power_of_two(matrix);
  const Matrix<T> turned = p.transposed();
  return times_cross(p, solve(k_matrix(turned * (matrix * scale)), vee(turned * f)) * scale);
}

// ---- the distance

template <class T> FN Matrix<T> cofactors(const Matrix<T>& m) {
  return {cross(m.y, m.z), cross(m.z, m.x), cross(m.x, m.y)};
}

template <class T> struct Relative {
  Matrix<T> m, minus_eye;  // M and M - I, which near a match is not the rounded difference
  T over_divisor;          // 1 / the divisor of both
};

template <class T> FN void normalize(Relative<T>& r, int64_t how) {
  const Matrix<T> eye = diagonal(T(1)), e = r.minus_eye;
  const T scale = power_of_two(r.m), square = dot(e, e);
  const Matrix<T> m = r.m * scale;
  const T det = dot(m.x, cross(m.y, m.z));
  T size, growth;  // the size of the scaled M; near a match, size / scale - 1
  if (how == FROBENIUS) {
    size = sqrt(dot(m, m) * T(1.0 / 3));
    growth = divide((T(2) * trace(e) + square) * T(1.0 / 3), T(1) + divide(size, scale));
  } else {
    size = cbrt(abs(det));
    const Matrix<T> c = cofactors(e);
    const T root = divide(size, scale);
    growth = divide(trace(e) + trace(c) + dot(e.x, c.x), T(1) + root + root * root);
  }
  const auto near = square < T(0.25);
  const T over_near = divide(T(1), T(1) + growth), divisor = select(det < T(0), -size, size);
  r.m = m * divide(T(1), divisor);
  const Matrix<T> if_near = (e - eye * growth) * over_near, if_far = r.m - eye;
  r.minus_eye = select(near, if_near, if_far);
  r.over_divisor = select(near, over_near, divide(scale, divisor));
}

// M = theta^-1 theta_hat, and what its gradient needs.
template <class T> struct Quotient {
  Matrix<T> m, minus_eye, inverse;
  T scale;  // theta^-1 = inverse scale
};

template <class T> FN Quotient<T> quotient(const Matrix<T>& theta, const Matrix<T>& theta_hat) {
  const T scale = power_of_two(theta);
  const Matrix<T> a = theta * scale, b = theta_hat * scale, difference = b - a, adjugate = cofactors(a).transposed();
  const T det = adjugate.x.x * a.x.x + adjugate.y.x * a.x.y + adjugate.z.x * a.x.z;
  const Matrix<T> inverse = adjugate * divide(T(1), det);
  // Near a match, M - I comes from the difference: rounding in 1 + e would lose the direction of a small e.
  const auto close = dot(difference, difference) < T(0.25) * dot(b, b);
  const Matrix<T> product = inverse * select(close, difference, b), eye = diagonal(T(1));
  return {select(close, product + eye, product), select(close, product, product - eye), inverse, scale};
}

// A rotation's angle phi, smoothed to sqrt(phi^2 + eps^2) - eps if eps > 0.
template <class T> struct Angle {
  T value;
  Vec<T> gradient;  // by w, where the rotation turns by [w]x
};

template <class T> FN Angle<T> smoothed_angle(const Quaternion<T>& q, double smooth) {
  const T top = largest(q.v), over_top = select(top > T(0), divide(T(1), top), T(0));
  const Vec<T> v = q.v * over_top;  // squares of small numbers underflow
  const T length = sqrt(dot(v, v));
  T phi = angle(top * length, q.w), slope = select(top > T(0), divide(T(1), length), T(0));
  if (smooth > 0) {
    const T eps(smooth), hypot = max(max(sqrt(phi * phi + eps * eps), phi), eps), ratio = divide(phi, hypot);
    slope = slope * ratio;
    phi = phi * divide(phi, hypot + eps);
  }
  return {phi, v * slope};
}

template <class T> struct Distance {
  T value;
  Matrix<T> grad_theta, grad_theta_hat;
};

// The distance is phi + lam |M - P|^2. With g the angle's gradient, its gradient by M is P [K^-1 g]x + 2 lam (M - P)
// (see project_backward): P is the nearest rotation, so |M - P| does not change with P. A gradient G by M gives the
// gradients theta^-T G by theta_hat and -theta^-T G M^T by theta.
template <class T>
FN Distance<T> geodesic_distance(const Matrix<T>& theta, const Matrix<T>& theta_hat, const Options& options) {
  const Quotient<T> exact = quotient(theta, theta_hat);
  Relative<T> r = {exact.m, exact.minus_eye, T(1)};
  if (options.normalize != NONE) normalize(r, options.normalize);

  const T size = power_of_two(r.m);
  const Matrix<T> m = r.m * size;
  T s1(0);
  const bool near = options.damping == 0 && is_near(r.minus_eye);
  const Quaternion<T> q = nearest(m, vee(r.minus_eye) * size, near, s1);
  const Matrix<T> turn = rotation_minus_eye(q), p = turn + diagonal(T(1)), residual = r.minus_eye - turn;

  const Angle<T> phi = smoothed_angle(q, options.smooth);
  const T lam(options.lam);
  const Symmetric<T> k = k_matrix(p.transposed() * m);
  const Vec<T> y =
      options.damping > 0 ? solve_damped(k, phi.gradient, T(options.damping) * s1) : solve(k, phi.gradient);
  Matrix<T> grad = times_cross(p, y * size) + residual * (T(2) * lam);
  if (options.normalize != NONE) {  // M / divisor does not depend on M's scale: no gradient along it
    const T along = T(2.0 / 3) * lam * dot(residual, r.m);
    const Matrix<T> radial = options.normalize == DET ? cofactors(r.m) : r.m;
    grad = (grad - radial * along) * r.over_divisor;
  }
  const Matrix<T> grad_theta_hat = exact.inverse.transposed() * grad * exact.scale;  // the scale last: it may be large
  const Matrix<T> weighted = residual * sqrt(lam);  // lam 0 times a square beyond T's range is 0
  return {phi.value + dot(weighted, weighted), grad_theta_hat * exact.m.transposed() * T(-1), grad_theta_hat};
}

}  // namespace so3::SIMD_TARGET
