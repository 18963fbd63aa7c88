// Moves between registers, lanes and memory, and the ways of control.
#include <algorithm>
#include <functional>

#include "machine.h"

namespace {

template <class T, int N, bool SHARED> void load(Warp& warp, const Op& op, Mask mask) {
  Memory& memory = SHARED ? warp.program.shared : warp.program.machine.global;
  const Register addresses = warp.operand(op, N);  // a copy: the result may take its register
  each_lane(mask, [&](int lane) {
    T values[N];
    const uint64_t base = SHARED ? static_cast<uint32_t>(addresses[lane]) : addresses[lane];
    memory.read(base + op.immediate, values, sizeof values, warp.now(lane));
    for (int i = 0; i < N; ++i) warp.operand(op, i)[lane] = put(values[i]);
  });
}

template <class T, int N, bool SHARED> void store(Warp& warp, const Op& op, Mask mask) {
  Memory& memory = SHARED ? warp.program.shared : warp.program.machine.global;
  each_lane(mask, [&](int lane) {
    T values[N];
    for (int i = 0; i < N; ++i) values[i] = get<T>(warp.operand(op, 1 + i)[lane]);
    const uint64_t address = warp.operand(op, 0)[lane];
    memory.write((SHARED ? static_cast<uint32_t>(address) : address) + op.immediate, values, sizeof values,
                 warp.now(lane));
  });
}

template <class T, int N, bool SHARED> void vectors(const std::string& type) {
  const std::string length = std::to_string(N);
  const std::string name = (SHARED ? ".shared" : ".global") + (N > 1 ? ".v" + length : "") + "." + type;
  define("ld" + name + " " + length + " m", load<T, N, SHARED>);
  define("st" + name + " m " + length, store<T, N, SHARED>);
}

template <class T> void accesses(const std::string& type) {
  vectors<T, 1, false>(type), vectors<T, 1, true>(type);
  vectors<T, 2, false>(type), vectors<T, 2, true>(type);
  vectors<T, 4, false>(type), vectors<T, 4, true>(type);
  // Parameters are constants, which stand in registers.
  define("ld.param." + type + " 1 m", [](Warp& warp, const Op& op, Mask mask) {
    each_lane(mask, [&](int lane) { warp.operand(op, 0)[lane] = put(get<T>(warp.operand(op, 1)[lane])); });
  });
}

void atomic_add(Warp& warp, const Op& op, Mask mask) {
  Memory& memory = warp.program.machine.global;
  each_lane(mask, [&](int lane) {
    Moment now = warp.now(lane);
    now.atomic = true;
    const uint64_t address = warp.operand(op, 1)[lane] + op.immediate;
    uint64_t before, added = warp.operand(op, 2)[lane];
    memory.read(address, &before, sizeof before, now);
    added += before;
    memory.write(address, &added, sizeof added, now);
    warp.operand(op, 0)[lane] = before;
  });
}

// The parts of a register, the lowest first.
template <class Whole, class Part> void pack(Warp& warp, const Op& op, Mask mask) {
  each_lane(mask, [&](int lane) {
    Whole whole = 0;
    for (int i = 0; i < 2; ++i) whole |= Whole{get<Part>(warp.operand(op, 1 + i)[lane])} << 8 * sizeof(Part) * i;
    warp.operand(op, 0)[lane] = whole;
  });
}

template <class Whole, class Part> void unpack(Warp& warp, const Op& op, Mask mask) {
  each_lane(mask, [&](int lane) {
    const Whole whole = get<Whole>(warp.operand(op, 2)[lane]);
    for (int i = 0; i < 2; ++i) warp.operand(op, i)[lane] = static_cast<Part>(whole >> 8 * sizeof(Part) * i);
  });
}

enum class Shuffle { UP, DOWN, BFLY, IDX };

void require_all_lanes(const Register& members) {
  for (const uint64_t member : members) {
    if (static_cast<uint32_t>(member) != ALL) throw Fault("the mask of members must be -1");
  }
}

struct Least {
  int32_t operator()(int32_t a, int32_t b) const { return std::min(a, b); }
};

struct Greatest {
  int32_t operator()(int32_t a, int32_t b) const { return std::max(a, b); }
};

// Each lane gets what the numbers of all lanes make together.
template <class Join> void reduce(Warp& warp, const Op& op, Mask) {
  require_all_lanes(warp.operand(op, 2));
  int32_t joined = static_cast<int32_t>(warp.operand(op, 1)[0]);
  for (int lane = 1; lane < LANES; ++lane) joined = Join()(joined, static_cast<int32_t>(warp.operand(op, 1)[lane]));
  for (int lane = 0; lane < LANES; ++lane) warp.operand(op, 0)[lane] = static_cast<uint32_t>(joined);
}

template <Shuffle KIND> void shuffle(Warp& warp, const Op& op, Mask) {
  require_all_lanes(warp.operand(op, 4));
  const Register values = warp.operand(op, 1);
  Register result;
  for (int lane = 0; lane < LANES; ++lane) {
    const int b = warp.operand(op, 2)[lane] & 31, c = warp.operand(op, 3)[lane] & 31;
    const int segment = warp.operand(op, 3)[lane] >> 8 & 31;
    const int last = (lane & segment) | (c & ~segment);
    const int from = KIND == Shuffle::UP     ? lane - b
                     : KIND == Shuffle::DOWN ? lane + b
                     : KIND == Shuffle::BFLY ? lane ^ b
                                             : (lane & segment) | (b & ~segment);
    const bool exists = KIND == Shuffle::UP ? from >= last : from <= last;
    result[lane] = values[exists ? from : lane];
  }
  warp.operand(op, 0) = result;
}

void jump(Warp& warp, const Op& op, Mask mask) {
  each_lane(mask, [&](int lane) { warp.at[lane] = op.immediate; });
}

const bool defined = [] {
  accesses<uint8_t>("b8"), accesses<uint16_t>("b16"), accesses<uint32_t>("b32"), accesses<uint64_t>("b64");
  accesses<uint8_t>("u8"), accesses<uint16_t>("u16"), accesses<uint32_t>("u32"), accesses<uint64_t>("u64");
  accesses<int8_t>("s8"), accesses<int16_t>("s16"), accesses<int32_t>("s32"), accesses<int64_t>("s64");
  accesses<uint32_t>("f32"), accesses<uint64_t>("f64");
  define("atom.global.gpu.relaxed.add.u64 1 m 1", atomic_add);
  define("mov.b32 1 2", pack<uint32_t, uint16_t>);
  define("mov.b64 1 2", pack<uint64_t, uint32_t>);
  define("mov.b32 2 1", unpack<uint32_t, uint16_t>);
  define("mov.b64 2 1", unpack<uint64_t, uint32_t>);

  define("shfl.sync.up.b32 1 1 1 1 1", shuffle<Shuffle::UP>, Kind::COLLECTIVE);
  define("shfl.sync.down.b32 1 1 1 1 1", shuffle<Shuffle::DOWN>, Kind::COLLECTIVE);
  define("shfl.sync.bfly.b32 1 1 1 1 1", shuffle<Shuffle::BFLY>, Kind::COLLECTIVE);
  define("shfl.sync.idx.b32 1 1 1 1 1", shuffle<Shuffle::IDX>, Kind::COLLECTIVE);
  define(
      "elect.sync 2 1",
      [](Warp& warp, const Op& op, Mask) {
        require_all_lanes(warp.operand(op, 2));
        for (int lane = 0; lane < LANES; ++lane) warp.operand(op, 0)[lane] = 0, warp.operand(op, 1)[lane] = lane == 0;
      },
      Kind::COLLECTIVE);

  define("redux.sync.add.s32 1 1 1", reduce<std::plus<int32_t>>, Kind::COLLECTIVE);
  define("redux.sync.min.s32 1 1 1", reduce<Least>, Kind::COLLECTIVE);
  define("redux.sync.max.s32 1 1 1", reduce<Greatest>, Kind::COLLECTIVE);

  define("bra label", jump, Kind::JUMP), define("bra.uni label", jump, Kind::JUMP);
  define("ret", [](Warp& warp, const Op&, Mask mask) { warp.alive &= ~mask; }, Kind::JUMP);
  define(
      "bar.sync 1", [](Warp& warp, const Op& op, Mask) { warp.waits_for = warp.operand(op, 0)[0]; }, Kind::COLLECTIVE);
  define(
      "bar.warp.sync 1",
      [](Warp& warp, const Op& op, Mask) {
        require_all_lanes(warp.operand(op, 0));
        ++warp.warp_barriers;
      },
      Kind::COLLECTIVE);
  return true;
}();

}  // namespace
