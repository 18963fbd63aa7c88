// Runs programs: warps take turns at random points, and a few programs run at the same time.
#include "machine.h"

#include <algorithm>
#include <bit>
#include <numeric>

std::map<std::string, Instruction>& instructions() {
  static std::map<std::string, Instruction> table;
  return table;
}

std::vector<Segment> one_segment(std::vector<uint8_t>& bytes, uint64_t begin, uint32_t granule) {
  std::vector<Segment> segments;
  segments.emplace_back(bytes.data(), begin, bytes.size(), granule);
  return segments;
}

void run_all(Work& work) {
  for (const auto& each : work) each();
  work.clear();
}

namespace {

constexpr size_t TOGETHER = 3;                    // programs that run at the same time
constexpr int LONGEST_TURN = 256;                 // in instructions
constexpr int MOST_TURNS = 1 << 17;               // of a program; kernels take thousands, of which most wait
constexpr uint64_t GARBAGE = 0xfff8deadffc0dead;  // NaN in float32 and in float64, and no address

bool runnable(const Warp& warp) { return warp.alive && warp.waits_for < 0; }

Mask guard(const Warp& warp, const Op& op) {
  if (op.guard < 0) return ALL;
  Mask mask = 0;
  for (int lane = 0; lane < LANES; ++lane) mask |= static_cast<Mask>(warp.registers[op.guard][lane] & 1) << lane;
  return op.negated ? ~mask : mask;
}

void release_barrier(Program& program) {  // once all warps have reached it
  for (const Warp& warp : program.warps) {
    if (warp.waits_for < 0 || warp.waits_for != program.warps[0].waits_for) return;
  }
  for (Warp& warp : program.warps) warp.waits_for = -1;
  ++program.barriers;
}

bool ended(const Program& program) {
  for (const Warp& warp : program.warps) {
    if (warp.alive) return false;
  }
  if (program.tensor) throw Fault("a program ended without releasing its tensor memory");
  bool waited = program.products.empty();
  for (const Warp& warp : program.warps)
    waited &= warp.issued.empty() && warp.committed.empty() && warp.loading.empty() && warp.storing.empty();
  if (!waited) throw Fault("a program ended without waiting for its asynchronous work");
  return true;
}

size_t take_turn(Machine& machine, const std::vector<std::unique_ptr<Program>>& running) {
  std::vector<std::pair<size_t, Warp*>> ready;
  for (size_t i = 0; i < running.size(); ++i) {
    for (Warp& warp : running[i]->warps) {
      if (runnable(warp)) ready.emplace_back(i, &warp);
    }
  }
  if (ready.empty()) throw Fault("warps wait at a barrier that others never reach");
  const auto [program, warp] = ready[machine.below(ready.size())];
  // Lanes of a warp need not run in step either, until an instruction that they execute together.
  const Mask lanes = machine.below(8) ? ALL : machine.random();
  if (++warp->program.turns == MOST_TURNS) throw Fault("the program takes too long");
  warp->run(1 + machine.below(LONGEST_TURN), lanes);
  release_barrier(warp->program);
  return program;
}

}  // namespace

Program::Program(Machine& machine, uint32_t index, std::vector<Register> registers)
    : machine(machine),
      index(index),
      registers(std::move(registers)),
      shared_bytes(machine.code.shared_bytes, 0xff),  // NaN, as floats
      shared("shared", one_segment(shared_bytes, SHARED_BASE, 1)),
      fences(machine.code.warps * LANES) {
  const Code& code = machine.code;
  warps.reserve(code.warps);
  for (int i = 0; i < code.warps; ++i) {
    Warp& warp = warps.emplace_back(Warp{*this, code.operands, &this->registers[i * code.register_count], i});
    for (int c = 0; c < code.constant_count; ++c) warp.registers[code.constant_registers[c]].fill(code.constants[c]);
    warp.registers[code.program_register].fill(index);
    for (int lane = 0; lane < LANES; ++lane) {
      warp.registers[code.thread_register][lane] = i * LANES + lane;
      warp.registers[code.lane_register][lane] = lane;
    }
  }
}

// Of the given lanes, those that are furthest behind go first, so that branches meet again.
void Warp::run(int steps, Mask lanes) {
  Machine& machine = program.machine;
  while (steps > 0 && runnable(*this)) {
    const Mask moving = alive & lanes & ~blocked;
    if (!moving && (lanes & alive) == alive)
      throw Fault("lanes of a warp wait for each other at different instructions");
    if (!moving) return;
    uint32_t next = ~0u, others_next = ~0u;
    each_lane(moving, [&](int lane) { next = std::min(next, at[lane]); });
    Mask active = 0;
    each_lane(moving, [&](int lane) {
      if (at[lane] == next)
        active |= Mask{1} << lane;
      else
        others_next = std::min(others_next, at[lane]);
    });
    for (bool together = true; together && steps > 0; --steps) {
      Op& op = machine.code.ops[machine.op = next];
      const Kind kind = op.instruction->kind;
      if (kind == Kind::COLLECTIVE) {
        if (alive != ALL) throw Fault("lanes of the warp have left");
        blocked |= active;
        if (std::any_of(at.begin(), at.end(), [next](uint32_t other) { return other != next; })) break;
        active = ALL;
        blocked = 0;
      }
      const Mask mask = active & guard(*this, op);
      if (kind == Kind::COLLECTIVE && mask && mask != ALL) throw Fault("the guard keeps some lanes out");
      ++op.executed;
      op.kept_out += std::popcount(active ^ mask);
      ++next;
      for (int lane = 0; lane < LANES; ++lane) at[lane] = active >> lane & 1 ? next : at[lane];
      if (mask) op.instruction->execute(*this, op, mask);
      together = kind != Kind::JUMP && next != others_next && waits_for < 0;
    }
  }
}

void Machine::run(uint32_t programs) {
  std::vector<uint32_t> order(programs);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  std::vector<std::unique_ptr<Program>> running;
  const auto start = [&](std::vector<Register> registers) {
    running.push_back(std::make_unique<Program>(*this, order.back(), std::move(registers)));
    order.pop_back();
  };
  Register garbage;
  garbage.fill(GARBAGE);
  while (!order.empty() && running.size() < TOGETHER)
    start(std::vector<Register>(code.warps * code.register_count, garbage));
  while (!running.empty()) {
    const auto turned = running.begin() + take_turn(*this, running);
    if (!ended(**turned)) continue;
    std::vector<Register> registers = std::move((*turned)->registers);
    running.erase(turned);
    if (!order.empty()) start(std::move(registers));
  }
}

struct Argument {  // a tensor that the kernel may access
  void* data;
  uint64_t size;     // bytes
  uint64_t granule;  // bytes of an element
};

extern "C" {

const Instruction* find_instruction(const char* key) {
  const auto found = instructions().find(key);
  return found == instructions().end() ? nullptr : &found->second;
}

// Returns -1; or the number of the op that failed, and why.
int64_t run(const Code* code, const Argument* arguments, int count, uint32_t programs, uint32_t seed, char* why,
            size_t size) {
  std::vector<Segment> segments;
  for (int i = 0; i < count; ++i) {
    const Argument& argument = arguments[i];
    segments.emplace_back(argument.data, reinterpret_cast<uint64_t>(argument.data), argument.size, argument.granule);
  }
  Machine machine{*code, Memory("global", std::move(segments)), std::mt19937(seed)};
  try {
    machine.run(programs);
    return -1;
  } catch (const Fault& fault) {
    std::snprintf(why, size, "%s", fault.what());
    return machine.op;
  }
}
}
