// Products of matrices that warps hold in registers (mma, wgmma), and the loads and stores that spread matrices over
// a warp. wgmma takes effect as late as it may: at the wait.
#include "matrices.h"

namespace {

using Fragment = std::vector<Register*>;

Fragment fragment(Warp& warp, const Op& op, int first, int count) {
  Fragment registers;
  for (int i = 0; i < count; ++i) registers.push_back(&warp.operand(op, first + i));
  return registers;
}

// d += a b, where the 16 rows of a and d lie in registers and b is right(k, column).
template <class Right> void multiply_add(const Fragment& d, const Fragment& a, Right right) {
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < static_cast<int>(2 * d.size()); ++column) {
      uint64_t& total = (*d[column / 8 * 4 + row / 8 * 2 + column % 2])[row % 8 * 4 + column % 8 / 2];
      float sum = get<float>(total);
      for (int k = 0; k < 8; ++k) {
        sum += tensor_float((*a[row / 8 + k / 4 * 2])[row % 8 * 4 + k % 4]) * right(k, column);
      }
      total = put(sum);
    }
  }
}

void mma(Warp& warp, const Op& op, Mask) {  // d, a, b, c
  const Fragment a = fragment(warp, op, 4, 4), b = fragment(warp, op, 8, 2), c = fragment(warp, op, 10, 4);
  std::array<Register, 4> sums{*c[0], *c[1], *c[2], *c[3]};
  multiply_add({&sums[0], &sums[1], &sums[2], &sums[3]}, a,
               [&](int k, int column) { return tensor_float((*b[k / 4])[column * 4 + k % 4]); });
  for (int i = 0; i < 4; ++i) warp.operand(op, i) = sums[i];
}

// Lane 4 r + c holds numbers 2 c and 2 c + 1 of row r of a matrix, or of its transpose.
using Halves = uint16_t[8][8];

template <bool TRANSPOSED> uint16_t& half(Halves& matrix, int lane, int i) {
  const int row = lane / 4, column = lane % 4 * 2 + i;
  return TRANSPOSED ? matrix[column][row] : matrix[row][column];
}

template <int N, bool TRANSPOSED> void ldmatrix(Warp& warp, const Op& op, Mask) {
  const Register addresses = warp.operand(op, N);
  for (int m = 0; m < N; ++m) {
    Halves matrix;
    for (int row = 0; row < 8; ++row) {
      const int lane = 8 * m + row;
      const uint64_t address = static_cast<uint32_t>(addresses[lane]) + op.immediate;
      warp.program.shared.read(address, matrix[row], sizeof matrix[row], warp.now(lane));
    }
    for (int lane = 0; lane < LANES; ++lane) {
      const uint32_t high = half<TRANSPOSED>(matrix, lane, 1);
      warp.operand(op, m)[lane] = high << 16 | half<TRANSPOSED>(matrix, lane, 0);
    }
  }
}

template <int N, bool TRANSPOSED> void stmatrix(Warp& warp, const Op& op, Mask) {
  for (int m = 0; m < N; ++m) {
    Halves matrix;
    for (int lane = 0; lane < LANES; ++lane) {
      const uint32_t both = static_cast<uint32_t>(warp.operand(op, 1 + m)[lane]);
      half<TRANSPOSED>(matrix, lane, 0) = both & 0xffff, half<TRANSPOSED>(matrix, lane, 1) = both >> 16;
    }
    for (int row = 0; row < 8; ++row) {
      const int lane = 8 * m + row;
      const uint64_t address = static_cast<uint32_t>(warp.operand(op, 0)[lane]) + op.immediate;
      warp.program.shared.write(address, matrix[row], sizeof matrix[row], warp.now(lane));
    }
  }
}

// d, a, the descriptor of b, whether to add to d, and the signs of a and b. Each of four warps makes 16 of the 64 rows.
template <int COLUMNS> void wgmma(Warp& warp, const Op& op, Mask) {
  constexpr int D = COLUMNS / 2;
  if (!warp.fenced) throw Fault("wgmma.fence must come before the first wgmma.mma_async");
  for (int sign : {D + 6, D + 7}) {
    if (warp.operand(op, sign)[0] != 1) throw Fault("the signs of a and b must be 1");
  }
  const Tile b(warp.operand(op, D + 4)[0]);
  const bool adds = get<bool>(warp.operand(op, D + 5)[0]);
  Fragment d;
  for (Register* number : fragment(warp, op, 0, D)) {
    d.push_back(&warp.sums.try_emplace(number, *number).first->second);
    number->fill(POISON);
  }
  b.load(warp.program, COLUMNS, warp.now(0));  // a race shows now
  warp.issued.push_back([&warp, &op, b, d, adds] {
    const auto right = b.load(warp.program, COLUMNS, warp.now(0));
    for (Register* sum : d) {
      if (!adds) sum->fill(0);
    }
    multiply_add(d, fragment(warp, op, D, 4), [&](int k, int column) { return right[column][k]; });
  });
}

void wait_for_group(Warp& warp, const Op& op, Mask) {
  if (warp.operand(op, 0)[0]) throw Fault("wgmma.wait_group must wait for all groups (0)");
  warp.fenced = false;
  for (const auto& product : warp.committed) product();
  warp.committed.clear();
  if (!warp.issued.empty()) return;  // without a commit, no wait helps
  for (auto& [number, sum] : warp.sums) *number = sum;
  warp.sums.clear();
}

template <int N, bool TRANSPOSED> void matrices() {
  const std::string n = std::to_string(N), kind = ".sync.aligned.m8n8.x" + n + (TRANSPOSED ? ".trans" : "");
  define("ldmatrix" + kind + ".shared.b16 " + n + " m", ldmatrix<N, TRANSPOSED>, Kind::COLLECTIVE);
  define("stmatrix" + kind + ".shared.b16 m " + n, stmatrix<N, TRANSPOSED>, Kind::COLLECTIVE);
}

template <int N> void warp_group_products() {
  const std::string name = "wgmma.mma_async.sync.aligned.m64n" + std::to_string(N) + "k8.f32.tf32.tf32 ";
  define(name + std::to_string(N / 2) + " 4 1 1 1 1", wgmma<N>, Kind::COLLECTIVE);
}

const bool defined = [] {
  define("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 4 4 2 4", mma, Kind::COLLECTIVE);
  matrices<1, false>(), matrices<2, false>(), matrices<4, false>();
  matrices<1, true>(), matrices<2, true>(), matrices<4, true>();
  warp_group_products<8>(), warp_group_products<16>(), warp_group_products<32>(), warp_group_products<64>();
  define("wgmma.fence.sync.aligned", [](Warp& warp, const Op&, Mask) { warp.fenced = true; }, Kind::COLLECTIVE);
  define(
      "wgmma.commit_group.sync.aligned",
      [](Warp& warp, const Op&, Mask) {
        warp.committed.insert(warp.committed.end(), warp.issued.begin(), warp.issued.end());
        warp.issued.clear();
      },
      Kind::COLLECTIVE);
  define("wgmma.wait_group.sync.aligned 1", wait_for_group, Kind::COLLECTIVE);
  define("fence.proxy.async.shared::cta", [](Warp& warp, const Op&, Mask mask) {
    each_lane(mask, [&](int lane) { ++warp.program.fences[warp.index * LANES + lane]; });
  });
  return true;
}();

}  // namespace
