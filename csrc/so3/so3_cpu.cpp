// The ops' definitions and their CPU kernels: so3.h on SIMD lanes, compiled per instruction set and picked at run time.

#include <algorithm>
#include <cstdint>

#include "so3/so3_ops.h"

#define SIMD_SOURCE "so3/so3_rows_cpu.h"
#include "common/simd.h"

namespace so3 {

struct Cpu {
  template <class Arguments> static void run(const Arguments& args, int64_t count, int32_t) {
    in_parallel(SIMD_BEST(rows<Arguments>), SIMD_BEST(ROWS<Arguments>), args, count);
  }

 private:
  // Threads get whole vectors, so the rows that share a vector do not depend on the number of threads.
  template <class Function, class Arguments>
  static void in_parallel(Function rows, int64_t width, const Arguments& args, int64_t count) {
    constexpr int64_t GRAIN = 2048;  // rows that are worth a thread
    torch::stable::parallel_for(0, (count + width - 1) / width, GRAIN / width, [&](int64_t begin, int64_t end) {
      rows(args, begin * width, std::min(end * width, count));
    });
  }
};

}  // namespace so3

STABLE_TORCH_LIBRARY_IMPL(inverseform_fast, CPU, m) {
  m.impl("project_to_so3", TORCH_BOX(&so3::Ops<so3::Cpu>::project_to_so3));
  m.impl("project_to_so3_backward", TORCH_BOX(&so3::Ops<so3::Cpu>::project_to_so3_backward));
  m.impl("geodesic_distance", TORCH_BOX(&so3::Ops<so3::Cpu>::geodesic_distance));
}
