// What runs decoded PTX: warps of 32 lanes, programs, and the table of the instructions that are known.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <random>

#include "memory.h"

constexpr int LANES = 32;
constexpr uint64_t SHARED_BASE = 1024;  // hardware also keeps the first KiB of shared memory for itself
using Mask = uint32_t;
constexpr Mask ALL = ~Mask{0};
using Register = std::array<uint64_t, LANES>;  // of any type, in the low bits

struct Warp;
struct Op;
using Execute = void (*)(Warp&, const Op&, Mask);

enum class Kind { PLAIN, JUMP, COLLECTIVE };  // all lanes of a warp execute a collective instruction together

struct Instruction {
  Execute execute;
  Kind kind;
};

// By name and shape of the operands, as in "fma.rn.f32 1 1 1 1": numbers are lengths of vectors, and m is an address.
std::map<std::string, Instruction>& instructions();

struct Op {           // as assembler.py lays it out
  int64_t immediate;  // is added to an address, or is where a branch goes
  const Instruction* instruction;
  int32_t operands, guard;  // the first of its operands, and a register or -1
  int64_t negated;
  int64_t executed, kept_out;  // counts of executions, and of lanes that the guard kept out
};

struct Code {  // as assembler.py lays it out
  Op* ops;
  const int32_t* operands;  // of all ops
  const int32_t* constant_registers;
  const uint64_t* constants;
  int32_t op_count, register_count, constant_count, warps, shared_bytes;
  int32_t thread_register, program_register, lane_register;  // of %tid.x, %ctaid.x and %laneid
};

struct Machine;

struct Barrier {  // an mbarrier
  uint32_t expected, pending, phase;
};

using Work = std::vector<std::function<void()>>;  // asynchronous; it is done as late as the program allows

struct Program {
  Machine& machine;
  uint32_t index, barriers = 0;
  int turns = 0;                    // that its warps have taken
  std::vector<Register> registers;  // of all warps
  std::vector<uint8_t> shared_bytes, tensor_bytes;
  Memory shared;
  std::vector<uint16_t> fences;  // that each thread has passed
  std::vector<Warp> warps;
  // tcgen05: tensor memory while it is allocated, products on their way, and the barriers that learn of their end.
  std::optional<Memory> tensor;
  uint32_t tensor_columns = 0;
  Work products;
  std::map<uint64_t, Barrier> mbarriers;

  Program(Machine& machine, uint32_t index, std::vector<Register> registers);
  Program(const Program&) = delete;
};

struct Warp {
  Program& program;
  const int32_t* all_operands;
  Register* registers;
  int index;
  uint32_t warp_barriers = 0;
  std::array<uint32_t, LANES> at{};  // the next op of each lane
  Mask alive = ALL, blocked = 0;     // blocked lanes wait for the others
  int waits_for = -1;                // the barrier that it has reached

  // wgmma: products that were issued or committed, and the true values of their sums.
  bool fenced = false;
  Work issued, committed;
  std::map<Register*, Register> sums;
  // tcgen05: loads and stores of tensor memory on their way.
  Work loading, storing;

  Register& operand(const Op& op, int i) { return registers[all_operands[op.operands + i]]; }
  Moment now(int lane) const {
    const uint16_t thread = index * LANES + lane;
    return {program.index + 1, program.barriers, warp_barriers, thread, program.fences[thread]};
  }
  void run(int steps, Mask lanes);
};

struct Machine {
  const Code& code;
  Memory global;
  std::mt19937 random;
  uint32_t op = 0;  // the one that executes

  uint32_t below(uint32_t n) { return random() % n; }
  void run(uint32_t programs);
};

std::vector<Segment> one_segment(std::vector<uint8_t>& bytes, uint64_t begin, uint32_t granule);
void run_all(Work& work);

template <class Function> void each_lane(Mask mask, Function function) {
  for (int lane = 0; lane < LANES; ++lane) {
    if (mask >> lane & 1) function(lane);
  }
}

template <class T> T get(uint64_t bits) {
  if constexpr (std::is_same_v<T, bool>) {
    return bits & 1;
  } else {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
}

template <class T> uint64_t put(T value) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<uint64_t>(value);  // extends the sign, as loads into wider registers do
  } else {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
  }
}

inline void define(const std::string& key, Execute execute, Kind kind = Kind::PLAIN) {
  instructions()[key] = {execute, kind};
}

template <class Function, class Result, class... Arguments, size_t... I>
void lane_by_lane(Warp& warp, const Op& op, Mask mask, Result (Function::*)(Arguments...) const,
                  std::index_sequence<I...>) {
  Register& to = warp.operand(op, 0);
  const std::array<const Register*, sizeof...(I)> from{&warp.operand(op, I + 1)...};
  for (int lane = 0; lane < LANES; ++lane) {
    const uint64_t result = put<Result>(Function{}(get<Arguments>((*from[I])[lane])...));
    to[lane] = mask >> lane & 1 ? result : to[lane];
  }
}

// Defines an instruction that every lane executes for itself by a lambda; its types say how registers are read.
template <class Function, class Result, class... Arguments>
void define_by_lane(std::string key, Result (Function::*)(Arguments...) const) {
  for (size_t i = 0; i <= sizeof...(Arguments); ++i) key += " 1";
  define(key, [](Warp& warp, const Op& op, Mask mask) {
    lane_by_lane<Function>(warp, op, mask, &Function::operator(), std::index_sequence_for<Arguments...>{});
  });
}

template <class Function> void elementwise(const std::string& name, Function) {
  define_by_lane<Function>(name, &Function::operator());
}
