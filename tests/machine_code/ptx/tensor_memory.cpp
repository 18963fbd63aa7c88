// tcgen05: products in tensor memory (sm_100), and the barriers in shared memory that say when they are done.
// Everything takes effect as late as it may.
#include "matrices.h"

namespace {

constexpr uint32_t FIRST_COLUMN = 64;  // of the allocation; not 0, so that an address that is left out shows
constexpr uint32_t ROWS = 128;

uint64_t place(const Program& program, uint32_t address) {  // of lane << 16 | column, in Program::tensor
  const uint32_t column = address & 0xffff;
  if (column < FIRST_COLUMN || column >= FIRST_COLUMN + program.tensor_columns)
    throw Fault("column " + std::to_string(column) + " of tensor memory is not allocated");
  return ((address >> 16) * program.tensor_columns + column - FIRST_COLUMN) * 4ull;
}

void allocate(Warp& warp, const Op& op, Mask) {
  Program& program = warp.program;
  if (program.tensor) throw Fault("tensor memory must be allocated once");
  program.tensor_columns = warp.operand(op, 1)[0];
  program.tensor_bytes.assign(ROWS * program.tensor_columns * 4, 0xff);
  program.tensor.emplace("tensor", one_segment(program.tensor_bytes, 0, 4));
  const uint64_t address = static_cast<uint32_t>(warp.operand(op, 0)[0]) + op.immediate;
  program.shared.write(address, &FIRST_COLUMN, sizeof FIRST_COLUMN, warp.now(0));
}

void release(Warp& warp, const Op& op, Mask) {
  if (get<uint32_t>(warp.operand(op, 0)[0]) != FIRST_COLUMN || warp.operand(op, 1)[0] != warp.program.tensor_columns)
    throw Fault("tensor memory must be released as it was allocated");
  warp.program.tensor.reset();
  warp.program.tensor_columns = 0;
}

uint32_t rows_of_warp(Warp& warp, const Op& op, int i) {
  const uint32_t address = warp.operand(op, i)[0] + op.immediate;
  if (address >> 16 != warp.index % 4 * 32u) throw Fault("a warp must access its own 32 rows of tensor memory");
  return address;
}

template <int N> void load(Warp& warp, const Op& op, Mask) {
  const uint32_t address = rows_of_warp(warp, op, N);
  for (int i = 0; i < N; ++i) warp.operand(op, i).fill(POISON);
  warp.loading.push_back([&warp, &op, address] {
    for (int lane = 0; lane < LANES; ++lane) {
      for (int i = 0; i < N; ++i) {
        uint32_t bits;
        warp.program.tensor->read(place(warp.program, address + (lane << 16) + i), &bits, sizeof bits, warp.now(lane));
        warp.operand(op, i)[lane] = bits;
      }
    }
  });
}

template <int N> void store(Warp& warp, const Op& op, Mask) {
  const uint32_t address = rows_of_warp(warp, op, 0);
  std::vector<Register> values;
  for (int i = 0; i < N; ++i) values.push_back(warp.operand(op, 1 + i));
  warp.storing.push_back([&warp, address, values] {
    for (int lane = 0; lane < LANES; ++lane) {
      for (int i = 0; i < N; ++i) {
        const uint32_t bits = values[i][lane];
        warp.program.tensor->write(place(warp.program, address + (lane << 16) + i), &bits, sizeof bits, warp.now(lane));
      }
    }
  });
}

uint32_t columns_of_product(uint32_t kind) {  // of the instruction descriptor, of which one form is known
  const uint32_t columns = (kind >> 17 & 63) * 8;
  const uint32_t known = 1 << 4 | 2 << 7 | 2 << 10 | columns / 8 << 17 | ROWS / 16 << 24;
  if (kind != known) throw Fault("a product must have 128 rows of TF32, with float32 sums");
  return columns;
}

// The first eight columns of a matrix that lies in tensor memory, a number of its own for each of them.
std::vector<std::array<float, 8>> tensor_rows(Program& program, uint32_t first, const Moment& now) {
  std::vector<std::array<float, 8>> numbers(ROWS);
  for (uint32_t row = 0; row < ROWS; ++row) {
    for (uint32_t column = 0; column < 8; ++column) {
      uint32_t bits;
      program.tensor->read(place(program, first + (row << 16) + column), &bits, sizeof bits, now);
      numbers[row][column] = tensor_float(bits);
    }
  }
  return numbers;
}

// d in tensor memory, a there or by a descriptor, the descriptors of b and of the instruction, whether to add to d.
template <bool A_IN_TENSOR> void multiply(Warp& warp, const Op& op, Mask mask) {
  each_lane(mask, [&](int lane) {
    Program& program = warp.program;
    const uint32_t d = warp.operand(op, 0)[lane] + (A_IN_TENSOR ? 0 : op.immediate);
    const uint64_t a = warp.operand(op, 1)[lane] + (A_IN_TENSOR ? op.immediate : 0);  // of the last address
    const Tile b(warp.operand(op, 2)[lane]);
    const uint32_t columns = columns_of_product(warp.operand(op, 3)[lane]);
    const bool adds = get<bool>(warp.operand(op, 4)[lane]);
    const Moment now = warp.now(lane);
    const auto rows_of_a = [&program, a, now] {
      return A_IN_TENSOR ? tensor_rows(program, static_cast<uint32_t>(a), now) : Tile(a).load(program, ROWS, now);
    };
    rows_of_a(), b.load(program, columns, now);  // a race shows now
    const auto product = [&program, rows_of_a, b, d, adds, columns, now] {
      const auto left = rows_of_a(), right = b.load(program, columns, now);
      for (uint32_t row = 0; row < ROWS; ++row) {
        for (uint32_t column = 0; column < columns; ++column) {
          const uint64_t address = place(program, d + (row << 16) + column);
          float sum;
          program.tensor->read(address, &sum, sizeof sum, now);
          if (!adds) sum = 0;
          for (int k = 0; k < 8; ++k) sum += left[row][k] * right[column][k];
          program.tensor->write(address, &sum, sizeof sum, now);
        }
      }
    };
    program.products.push_back(product);
  });
}

uint64_t shared_address(Warp& warp, const Op& op, int i, int lane) {
  return static_cast<uint32_t>(warp.operand(op, i)[lane]) + op.immediate;
}

// A barrier's state is kept apart; the bytes in shared memory show races.
Barrier& barrier(Warp& warp, uint64_t address, int lane) {
  uint64_t bytes;
  warp.program.shared.read(address, &bytes, sizeof bytes, warp.now(lane));
  const auto found = warp.program.mbarriers.find(address);
  if (found == warp.program.mbarriers.end()) throw Fault("there is no mbarrier at this address");
  return found->second;
}

void init_barrier(Warp& warp, const Op& op, Mask mask) {
  each_lane(mask, [&](int lane) {
    const uint64_t address = shared_address(warp, op, 0, lane), bytes = warp.program.machine.random();
    const uint32_t count = warp.operand(op, 1)[lane];
    warp.program.shared.write(address, &bytes, sizeof bytes, warp.now(lane));
    warp.program.mbarriers[address] = {count, count, 0};
  });
}

void end_barrier(Warp& warp, const Op& op, Mask mask) {
  each_lane(mask, [&](int lane) {
    const uint64_t address = shared_address(warp, op, 0, lane), bytes = warp.program.machine.random();
    warp.program.shared.write(address, &bytes, sizeof bytes, warp.now(lane));
    if (!warp.program.mbarriers.erase(address)) throw Fault("there is no mbarrier at this address");
  });
}

void commit(Warp& warp, const Op& op, Mask mask) {  // the barrier learns when all products before are done
  each_lane(mask, [&](int lane) {
    Barrier& arrives = barrier(warp, shared_address(warp, op, 0, lane), lane);
    warp.program.products.push_back([&arrives] {
      if (--arrives.pending == 0) arrives.pending = arrives.expected, ++arrives.phase;
    });
  });
}

void try_wait(Warp& warp, const Op& op, Mask mask) {
  if (warp.program.machine.below(8) == 0) run_all(warp.program.products);
  each_lane(mask, [&](int lane) {
    const Barrier& waits_for = barrier(warp, shared_address(warp, op, 1, lane), lane);
    warp.operand(op, 0)[lane] = (waits_for.phase & 1) != (warp.operand(op, 2)[lane] & 1);
  });
}

template <int N> void transfers() {
  const std::string n = std::to_string(N), name = ".sync.aligned.32x32b.x" + n + ".b32 ";
  define("tcgen05.ld" + name + n + " m", load<N>, Kind::COLLECTIVE);
  define("tcgen05.st" + name + "m " + n, store<N>, Kind::COLLECTIVE);
}

const bool defined = [] {
  define("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 m 1", allocate, Kind::COLLECTIVE);
  define("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned", [](Warp&, const Op&, Mask) {}, Kind::COLLECTIVE);
  define("tcgen05.dealloc.cta_group::1.sync.aligned.b32 1 1", release, Kind::COLLECTIVE);
  transfers<1>(), transfers<2>(), transfers<4>(), transfers<8>(), transfers<16>(), transfers<32>(), transfers<64>();
  define("tcgen05.wait::ld.sync.aligned", [](Warp& warp, const Op&, Mask) { run_all(warp.loading); }, Kind::COLLECTIVE);
  define("tcgen05.wait::st.sync.aligned", [](Warp& warp, const Op&, Mask) { run_all(warp.storing); }, Kind::COLLECTIVE);
  define("tcgen05.mma.cta_group::1.kind::tf32 m 1 1 1 1", multiply<false>);
  define("tcgen05.mma.cta_group::1.kind::tf32 m m 1 1 1", multiply<true>);
  define("tcgen05.commit.cta_group::1.mbarrier::arrive::one.b64 m", commit);
  define("mbarrier.init.shared::cta.b64 m 1", init_barrier);
  define("mbarrier.inval.shared::cta.b64 m", end_barrier);
  define("mbarrier.try_wait.parity.shared.b64 1 m 1", try_wait);
  return true;
}();

}  // namespace
