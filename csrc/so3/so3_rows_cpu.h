// The loop over rows, with vectors of SIMD_BYTES if the instruction set has any. It is included once per instruction
// set.

#include <algorithm>
#include <cstdint>

#include "so3/lanes.h"

namespace so3::SIMD_TARGET {

#ifdef SIMD_BYTES
template <class T> using Number = Lanes<T, SIMD_BYTES / sizeof(T)>;
#else
template <class T> using Number = T;
#endif

template <class Arguments> constexpr int64_t ROWS = Access<Number<typename Arguments::Scalar>>::ROWS;

template <class Arguments> void rows(const Arguments& args, int64_t begin, int64_t end) {
  constexpr int64_t width = ROWS<Arguments>;
  for (int64_t first = begin; first < end; first += width)
    compute(Access<Number<typename Arguments::Scalar>>{first, static_cast<int>(std::min(width, end - first))}, args);
}

}  // namespace so3::SIMD_TARGET
