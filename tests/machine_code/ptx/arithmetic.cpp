// Arithmetic, comparisons and conversions: what a lane does by itself, with registers alone.
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "machine.h"

namespace {

struct BFloat {
  uint16_t bits;
  operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

struct Half {
  uint16_t bits;
  operator float() const { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
};

template <class T> struct Pair {
  T low, high;
};

struct Floats {
  float low, high;
};

struct Shorts {
  int16_t low, high;
};

template <class T> T flushed(T x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T{0}, x) : x; }
template <class T> T as_is(T x) { return x; }

template <class T> T larger(T x, T y) {  // drops NaN, and +0 is larger than -0
  if (std::isnan(x)) return y;
  if (std::isnan(y) || x > y) return x;
  return x < y || std::signbit(x) ? y : x;
}

template <class T> T smaller(T x, T y) { return -larger(-x, -y); }

template <class T> T nan_or(T x, T y, T result) {
  return std::isnan(x) || std::isnan(y) ? std::numeric_limits<T>::quiet_NaN() : result;
}

template <class Integer, class Float> Integer saturated(Float x) {  // after rounding to a whole number
  using Limits = std::numeric_limits<Integer>;
  if (std::isnan(x))
    return sizeof(Float) < 8 && sizeof(Integer) < 8 ? 0
                                                    : Integer(uint64_t{1} << (Limits::digits + Limits::is_signed - 1));
  if (x >= std::ldexp(Float{1}, Limits::digits)) return Limits::max();
  if (x <= Float(Limits::min())) return Limits::min();
  return static_cast<Integer>(x);
}

BFloat to_bfloat(float x) {
  if (std::isnan(x)) return {0x7fff};
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

Half to_half(float x) { return std::isnan(x) ? Half{0x7fff} : Half{std::bit_cast<uint16_t>(static_cast<_Float16>(x))}; }

float to_tensor_float(float x) {  // to nearest, halves away from zero
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return std::isfinite(x) ? std::bit_cast<float>((bits + 0x1000) & ~0x1fffu) : x;
}

// The manual allows approximations 2 units in the last place. So a result is moved by -2 to 2 of them, always alike.
float nearly(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const int moved = static_cast<int>((bits * 0x9e3779b1u >> 16) % 5) - 2;
  return std::isnormal(x) && std::isnormal(2 * x) ? std::bit_cast<float>(bits + moved) : x;
}

float quotient(float x, float y) {  // that of a power of 2 is taken to be exact, as its reciprocal is
  return std::bit_cast<uint32_t>(y) << 9 ? nearly(x / y) : x / y;
}

uint32_t bytes_picked(uint32_t low, uint32_t high, uint32_t choice) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = choice >> 4 * i & 15;
    uint8_t byte = bytes >> 8 * (nibble & 7);
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;  // its sign
    result |= static_cast<uint32_t>(byte) << 8 * i;
  }
  return result;
}

template <class T> T bit_field(T x, uint32_t position, uint32_t length) {
  constexpr uint32_t WIDTH = 8 * sizeof(T);
  position &= 255, length &= 255;
  const uint32_t end = std::min(position + length, WIDTH);
  if (position >= end) return length && std::is_signed_v<T> && x < 0 ? -1 : 0;
  return static_cast<T>(static_cast<T>(static_cast<uint64_t>(x) << (WIDTH - end)) >> (WIDTH - end + position));
}

// The high or the low half of two registers that are shifted as one.
uint32_t high_of_shifted_left(uint32_t low, uint32_t high, uint32_t n) {
  return (static_cast<uint64_t>(high) << 32 | low) << n >> 32;
}

uint32_t low_of_shifted_right(uint32_t low, uint32_t high, uint32_t n) {
  return (static_cast<uint64_t>(high) << 32 | low) >> n;
}

template <class T> void bits(const std::string& type) {
  elementwise("and.b" + type, [](T x, T y) -> T { return x & y; });
  elementwise("or.b" + type, [](T x, T y) -> T { return x | y; });
  elementwise("xor.b" + type, [](T x, T y) -> T { return x ^ y; });
  elementwise("not.b" + type, [](T x) -> T { return ~x; });
  elementwise("shl.b" + type, [](T x, uint32_t n) -> T { return n < 8 * sizeof(T) ? x << n : 0; });
  elementwise("setp.eq.b" + type, [](T x, T y) { return x == y; });
  elementwise("setp.ne.b" + type, [](T x, T y) { return x != y; });
}

template <class T> void orders(const std::string& type) {
  elementwise("setp.eq." + type, [](T x, T y) { return x == y; });
  elementwise("setp.ne." + type, [](T x, T y) { return x < y || x > y; });
  elementwise("setp.lt." + type, [](T x, T y) { return x < y; });
  elementwise("setp.le." + type, [](T x, T y) { return x <= y; });
  elementwise("setp.gt." + type, [](T x, T y) { return x > y; });
  elementwise("setp.ge." + type, [](T x, T y) { return x >= y; });
}

template <class T> void unordered(const std::string& type) {
  elementwise("setp.equ." + type, [](T x, T y) { return !(x < y || x > y); });
  elementwise("setp.neu." + type, [](T x, T y) { return !(x == y); });
  elementwise("setp.ltu." + type, [](T x, T y) { return !(x >= y); });
  elementwise("setp.leu." + type, [](T x, T y) { return !(x > y); });
  elementwise("setp.gtu." + type, [](T x, T y) { return !(x <= y); });
  elementwise("setp.geu." + type, [](T x, T y) { return !(x < y); });
  elementwise("setp.num." + type, [](T x, T y) { return !std::isnan(x) && !std::isnan(y); });
  elementwise("setp.nan." + type, [](T x, T y) { return std::isnan(x) || std::isnan(y); });
}

template <class T> void integers(const std::string& type) {
  using U = uint64_t;  // arithmetic wraps around
  elementwise("add." + type, [](T x, T y) -> T { return U(x) + U(y); });
  elementwise("sub." + type, [](T x, T y) -> T { return U(x) - U(y); });
  elementwise("mul.lo." + type, [](T x, T y) -> T { return U(x) * U(y); });
  elementwise("mad.lo." + type, [](T x, T y, T z) -> T { return U(x) * U(y) + U(z); });
  elementwise("neg." + type, [](T x) -> T { return -U(x); });
  elementwise("abs." + type, [](T x) -> T { return x < 0 ? -U(x) : U(x); });
  elementwise("min." + type, [](T x, T y) { return std::min(x, y); });
  elementwise("max." + type, [](T x, T y) { return std::max(x, y); });
  elementwise("shr." + type, [](T x, uint32_t n) -> T {
    return x >> std::min<uint32_t>(n, 8 * sizeof(T) - 1) >> (n >= 8 * sizeof(T));
  });
  // The quotient by 0 is unspecified.
  elementwise("div." + type, [](T x, T y) -> T {
    return y == 0 ? -1 : std::is_signed_v<T> && y == T(-1) ? T(-U(x)) : x / y;
  });
  elementwise("rem." + type, [](T x, T y) -> T { return y == 0 ? -1 : std::is_signed_v<T> && y == T(-1) ? 0 : x % y; });
  orders<T>(type);
}

template <class T, class Wide> void wide_products(const std::string& type) {
  elementwise("mul.wide." + type, [](T x, T y) -> Wide { return Wide(x) * Wide(y); });
  elementwise("mad.wide." + type, [](T x, T y, Wide z) -> Wide { return uint64_t(Wide(x) * Wide(y)) + uint64_t(z); });
  elementwise("mul.hi." + type, [](T x, T y) -> T { return (Wide(x) * Wide(y)) >> 8 * sizeof(T); });
}

template <class T, auto f = as_is<T>> void floats(const std::string& type) {
  for (const std::string rounding : {"", "rn."}) {
    elementwise("add." + rounding + type, [](T x, T y) { return f(f(x) + f(y)); });
    elementwise("sub." + rounding + type, [](T x, T y) { return f(f(x) - f(y)); });
    elementwise("mul." + rounding + type, [](T x, T y) { return f(f(x) * f(y)); });
  }
  elementwise("fma.rn." + type, [](T x, T y, T z) { return f(std::fma(f(x), f(y), f(z))); });
  elementwise("div.rn." + type, [](T x, T y) { return f(f(x) / f(y)); });
  elementwise("rcp.rn." + type, [](T x) { return f(1 / f(x)); });
  elementwise("sqrt.rn." + type, [](T x) { return f(std::sqrt(f(x))); });
  elementwise("neg." + type, [](T x) { return f(-x); });
  elementwise("abs." + type, [](T x) { return f(std::abs(x)); });
  elementwise("min." + type, [](T x, T y) { return smaller(f(x), f(y)); });
  elementwise("max." + type, [](T x, T y) { return larger(f(x), f(y)); });
  elementwise("min.NaN." + type, [](T x, T y) { return nan_or(x, y, smaller(f(x), f(y))); });
  elementwise("max.NaN." + type, [](T x, T y) { return nan_or(x, y, larger(f(x), f(y))); });
  elementwise("cvt.rni." + type + "." + type.substr(type.size() - 3), [](T x) { return std::nearbyint(f(x)); });
  elementwise("cvt.rzi." + type + "." + type.substr(type.size() - 3), [](T x) { return std::trunc(f(x)); });
  elementwise("cvt.rmi." + type + "." + type.substr(type.size() - 3), [](T x) { return std::floor(f(x)); });
  elementwise("cvt.rpi." + type + "." + type.substr(type.size() - 3), [](T x) { return std::ceil(f(x)); });
}

template <auto f> void approximations(const std::string& type) {
  elementwise("ex2.approx." + type, [](float x) { return f(x) == 0 ? 1 : f(nearly(std::exp2(f(x)))); });  // exact at 0
  elementwise("lg2.approx." + type, [](float x) { return f(nearly(std::log2(f(x)))); });
  elementwise("rcp.approx." + type, [](float x) { return f(nearly(1 / f(x))); });
  elementwise("sqrt.approx." + type, [](float x) { return f(nearly(std::sqrt(f(x)))); });
  elementwise("rsqrt.approx." + type, [](float x) { return f(nearly(1 / std::sqrt(f(x)))); });
  elementwise("div.full." + type, [](float x, float y) { return f(quotient(f(x), f(y))); });
  elementwise("div.approx." + type, [](float x, float y) {
    const bool huge = std::isfinite(y) && std::abs(y) > 0x1p126f;  // then the reciprocal that it takes is 0
    return huge ? f(x) * std::copysign(0.0f, y) : f(quotient(f(x), f(y)));
  });
}

template <class T, class From> void conversion(const std::string& to, const std::string& from) {
  elementwise("cvt." + to + "." + from, [](From x) { return static_cast<T>(x); });
}

template <class T> void conversions(const std::string& to) {
  conversion<T, int8_t>(to, "s8"), conversion<T, uint8_t>(to, "u8");
  conversion<T, int16_t>(to, "s16"), conversion<T, uint16_t>(to, "u16");
  conversion<T, int32_t>(to, "s32"), conversion<T, uint32_t>(to, "u32");
  conversion<T, int64_t>(to, "s64"), conversion<T, uint64_t>(to, "u64");
}

template <class T> void whole_numbers_of_floats(const std::string& to) {
  elementwise("cvt.rni." + to + ".f32", [](float x) { return saturated<T>(std::nearbyint(x)); });
  elementwise("cvt.rzi." + to + ".f32", [](float x) { return saturated<T>(std::trunc(x)); });
  elementwise("cvt.rmi." + to + ".f32", [](float x) { return saturated<T>(std::floor(x)); });
  elementwise("cvt.rzi.ftz." + to + ".f32", [](float x) { return saturated<T>(std::trunc(x)); });
  elementwise("cvt.rmi.ftz." + to + ".f32", [](float x) { return saturated<T>(std::floor(flushed(x))); });
  elementwise("cvt.rni." + to + ".f64", [](double x) { return saturated<T>(std::nearbyint(x)); });
  elementwise("cvt.rzi." + to + ".f64", [](double x) { return saturated<T>(std::trunc(x)); });
  elementwise("cvt.rmi." + to + ".f64", [](double x) { return saturated<T>(std::floor(x)); });
}

template <class T> void short_floats(const std::string& type) {
  orders<T>(type);
  elementwise("cvt.f32." + type, [](T x) { return float(x); });
  elementwise("cvt.f64." + type, [](T x) { return double(float(x)); });
  elementwise("abs." + type, [](T x) -> uint16_t { return x.bits & 0x7fff; });
  elementwise("neg." + type, [](T x) -> uint16_t { return x.bits ^ 0x8000; });
}

// Compares two pairs, and writes two predicates.
template <class T, class Function> void pairwise(const std::string& name) {
  define("setp." + name + "x2 2 1 1", [](Warp& warp, const Op& op, Mask mask) {
    each_lane(mask, [&](int lane) {
      const auto x = get<Pair<T>>(warp.operand(op, 2)[lane]), y = get<Pair<T>>(warp.operand(op, 3)[lane]);
      warp.operand(op, 0)[lane] = Function{}(x.low, y.low);
      warp.operand(op, 1)[lane] = Function{}(x.high, y.high);
    });
  });
}

template <class T> void comparisons_of_pairs(const std::string& type) {
  pairwise<T, std::less<float>>("lt." + type), pairwise<T, std::less_equal<float>>("le." + type);
  pairwise<T, std::greater<float>>("gt." + type), pairwise<T, std::greater_equal<float>>("ge." + type);
}

template <class T> void bit_fields(const std::string& type) {
  elementwise("bfe." + type, [](T x, uint32_t position, uint32_t length) { return bit_field(x, position, length); });
}

template <class T> void choices(const std::string& type) {
  elementwise("selp." + type, [](T x, T y, bool first) { return first ? x : y; });
  elementwise("mov." + type, [](T x) { return x; });
}

const bool defined = [] {
  bits<uint16_t>("16"), bits<uint32_t>("32"), bits<uint64_t>("64");
  elementwise("and.pred", [](bool x, bool y) { return x && y; });
  elementwise("or.pred", [](bool x, bool y) { return x || y; });
  elementwise("xor.pred", [](bool x, bool y) { return x != y; });
  elementwise("not.pred", [](bool x) { return !x; });
  elementwise("mov.pred", [](bool x) { return x; });
  choices<uint16_t>("b16"), choices<uint16_t>("u16"), choices<int16_t>("s16");
  choices<uint32_t>("b32"), choices<uint32_t>("u32"), choices<int32_t>("s32"), choices<uint32_t>("f32");
  choices<uint64_t>("b64"), choices<uint64_t>("u64"), choices<int64_t>("s64"), choices<uint64_t>("f64");

  integers<int16_t>("s16"), integers<int32_t>("s32"), integers<int64_t>("s64");
  integers<uint16_t>("u16"), integers<uint32_t>("u32"), integers<uint64_t>("u64");
  wide_products<int16_t, int32_t>("s16"), wide_products<uint16_t, uint32_t>("u16");
  wide_products<int32_t, int64_t>("s32"), wide_products<uint32_t, uint64_t>("u32");
  bit_fields<int32_t>("s32"), bit_fields<uint32_t>("u32"), bit_fields<int64_t>("s64"), bit_fields<uint64_t>("u64");
  elementwise("min.relu.s32", [](int32_t x, int32_t y) { return std::max(std::min(x, y), 0); });
  elementwise("max.relu.s32", [](int32_t x, int32_t y) { return std::max({x, y, 0}); });
  elementwise("shf.l.wrap.b32", [](uint32_t x, uint32_t y, uint32_t n) { return high_of_shifted_left(x, y, n & 31); });
  elementwise("shf.r.wrap.b32", [](uint32_t x, uint32_t y, uint32_t n) { return low_of_shifted_right(x, y, n & 31); });
  elementwise("prmt.b32", [](uint32_t low, uint32_t high, uint32_t choice) { return bytes_picked(low, high, choice); });
  elementwise("add.s16x2", [](Shorts x, Shorts y) { return Shorts{int16_t(x.low + y.low), int16_t(x.high + y.high)}; });

  floats<float>("f32"), floats<float, flushed<float>>("ftz.f32"), floats<double>("f64");
  approximations<as_is<float>>("f32"), approximations<flushed<float>>("ftz.f32");
  orders<float>("f32"), orders<double>("f64"), unordered<float>("f32"), unordered<double>("f64");
  short_floats<BFloat>("bf16"), short_floats<Half>("f16");
  comparisons_of_pairs<BFloat>("bf16"), comparisons_of_pairs<Half>("f16");
  elementwise("add.f32x2", [](Floats x, Floats y) { return Floats{x.low + y.low, x.high + y.high}; });
  elementwise("sub.f32x2", [](Floats x, Floats y) { return Floats{x.low - y.low, x.high - y.high}; });
  elementwise("mul.f32x2", [](Floats x, Floats y) { return Floats{x.low * y.low, x.high * y.high}; });
  for (const std::string rounding : {"", "rn."}) {
    elementwise("fma." + rounding + "f32x2", [](Floats x, Floats y, Floats z) {
      return Floats{std::fma(x.low, y.low, z.low), std::fma(x.high, y.high, z.high)};
    });
  }

  conversions<int8_t>("s8"), conversions<int16_t>("s16"), conversions<int32_t>("s32"), conversions<int64_t>("s64");
  conversions<uint8_t>("u8"), conversions<uint16_t>("u16"), conversions<uint32_t>("u32"), conversions<uint64_t>("u64");
  conversions<float>("rn.f32"), conversions<double>("rn.f64");
  whole_numbers_of_floats<int32_t>("s32"), whole_numbers_of_floats<int64_t>("s64");
  whole_numbers_of_floats<uint32_t>("u32"), whole_numbers_of_floats<uint64_t>("u64");
  elementwise("cvt.f64.f32", [](float x) { return double(x); });
  elementwise("cvt.rn.f32.f64", [](double x) { return float(x); });
  elementwise("cvt.rn.bf16.f32", [](float x) { return to_bfloat(x); });
  elementwise("cvt.rn.f16.f32", [](float x) { return to_half(x); });
  elementwise("cvt.rn.bf16x2.f32", [](float high, float low) { return std::array{to_bfloat(low), to_bfloat(high)}; });
  elementwise("cvt.rn.f16x2.f32", [](float high, float low) { return std::array{to_half(low), to_half(high)}; });
  elementwise("cvt.rna.tf32.f32", [](float x) { return to_tensor_float(x); });
  return true;
}();

}  // namespace
