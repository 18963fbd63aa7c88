// Memory of the machine: every access is checked for bounds, alignment and races.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A thread at a time: how many barriers of its program, of its warp, and how many proxy fences it has passed.
struct Moment {
  uint32_t program = 0;  // from 1; 0 is nobody
  uint32_t barriers = 0, warp_barriers = 0;
  uint16_t thread = 0, fences = 0;
  bool atomic = false;

  bool same_warp(const Moment& other) const { return thread / 32 == other.thread / 32; }

  std::string who() const { return "thread " + std::to_string(thread) + " of program " + std::to_string(program - 1); }

  bool before(const Moment& now) const {
    if (!program || (atomic && now.atomic)) return true;
    if (program != now.program) return false;
    return barriers != now.barriers || thread == now.thread || (same_warp(now) && warp_barriers != now.warp_barriers);
  }
};

// The last write of an element, and the reads that a write must come after.
struct History {
  Moment write, read;
  bool programs;      // several programs have read it,
  bool warps, lanes;  // or several warps since their barrier, or several lanes since their warp's barrier

  void note_read(const Moment& now) {
    if (read.program && read.program != now.program) programs = true;
    const bool same = read.program == now.program && read.barriers == now.barriers;
    warps = same && (warps || !read.same_warp(now));
    lanes =
        same && read.same_warp(now) && read.warp_barriers == now.warp_barriers && (lanes || read.thread != now.thread);
    read = now;
  }

  bool reads_before(const Moment& now) const {
    if (now.atomic && read.atomic) return true;
    if (programs) return false;
    const bool same = read.program == now.program && read.barriers == now.barriers;
    const bool same_lanes = read.same_warp(now) && read.warp_barriers == now.warp_barriers;
    if (same && (warps || (lanes && same_lanes))) return false;
    return read.before(now);
  }
};

struct Segment {
  uint8_t* data;
  uint64_t begin, size;
  uint32_t granule;  // bytes that share a history
  std::unique_ptr<History, void (*)(void*)> histories;

  Segment(void* data, uint64_t begin, uint64_t size, uint32_t granule)
      : data(static_cast<uint8_t*>(data)),
        begin(begin),
        size(size),
        granule(granule),
        // The kernel of the operating system zeroes pages when they are touched, which most never are.
        histories(static_cast<History*>(std::calloc(size / granule + 1, sizeof(History))), std::free) {}
};

class Memory {
 public:
  Memory(std::string name, std::vector<Segment> sorted) : name_(std::move(name)), segments_(std::move(sorted)) {}

  void read(uint64_t address, void* to, uint32_t size, const Moment& now) {
    Segment& segment = find(address, size, "read", now);
    each_history(segment, address, size, [&](History& history) {
      if (!history.write.before(now)) throw race("reads", address, now, "wrote", history.write);
      history.note_read(now);
    });
    std::memcpy(to, segment.data + (address - segment.begin), size);
  }

  void write(uint64_t address, const void* from, uint32_t size, const Moment& now) {
    Segment& segment = find(address, size, "write", now);
    uint8_t* to = segment.data + (address - segment.begin);
    const bool same_value = !std::memcmp(to, from, size);  // threads may store the same value twice
    each_history(segment, address, size, [&](History& history) {
      if (!history.write.before(now) && !same_value) throw race("writes", address, now, "wrote", history.write);
      if (!history.reads_before(now)) throw race("writes", address, now, "read", history.read);
      history.write = now;
    });
    std::memcpy(to, from, size);
  }

  // What matrix units read bypasses the cache: each writer must have passed a fence since its write.
  void read_by_proxy(uint64_t address, void* to, uint32_t size, const Moment& now, const uint16_t* fences_of_threads) {
    read(address, to, size, now);
    Segment& segment = find(address, size, "read", now);
    each_history(segment, address, size, [&](const History& history) {
      if (history.write.program && fences_of_threads[history.write.thread] == history.write.fences)
        throw Fault("no fence.proxy.async since the write of " + what(address));
    });
  }

 private:
  std::string name_;
  std::vector<Segment> segments_;
  size_t last_ = 0;

  static bool holds(const Segment& segment, uint64_t address, uint32_t size) {
    return address >= segment.begin && address + size <= segment.begin + segment.size && address + size > address;
  }

  Segment& find(uint64_t address, uint32_t size, const char* verb, const Moment& now) {
    if (address % size) {
      throw Fault(now.who() + " makes a misaligned " + verb + " of " + std::to_string(size) + " bytes at " +
                  what(address));
    }
    if (last_ < segments_.size() && holds(segments_[last_], address, size)) return segments_[last_];
    const auto after = std::upper_bound(segments_.begin(), segments_.end(), address,
                                        [](uint64_t a, const Segment& segment) { return a < segment.begin; });
    if (after != segments_.begin() && holds(*(after - 1), address, size)) {
      last_ = after - 1 - segments_.begin();
      return segments_[last_];
    }
    throw Fault(now.who() + " makes a " + verb + " of " + std::to_string(size) + " bytes out of bounds, at " +
                what(address) + nearest(address));
  }

  std::string nearest(uint64_t address) const {
    std::string text = ", which belongs to nothing";
    int64_t best = 1 << 20;
    for (size_t i = 0; i < segments_.size(); ++i) {
      const int64_t past = address - (segments_[i].begin + segments_[i].size), short_of = segments_[i].begin - address;
      const int64_t distance = std::max(past, short_of);
      if (distance >= best) continue;
      best = distance;
      text = ", " + std::to_string(distance) + " bytes " + (past >= short_of ? "past the end" : "before the start") +
             " of segment " + std::to_string(i);
    }
    return text;
  }

  std::string what(uint64_t address) const {
    char text[64];
    std::snprintf(text, sizeof text, "%s address 0x%llx", name_.c_str(), static_cast<unsigned long long>(address));
    return text;
  }

  Fault race(const char* verb, uint64_t address, const Moment& now, const char* did, const Moment& then) const {
    return Fault("a race: " + now.who() + " " + verb + " " + what(address) + ", which " + then.who() + " " + did +
                 " with no barrier between them");
  }

  template <class Function> void each_history(Segment& segment, uint64_t address, uint32_t size, Function function) {
    const uint64_t from = (address - segment.begin) / segment.granule;
    const uint64_t to = (address - segment.begin + size - 1) / segment.granule;
    for (uint64_t i = from; i <= to; ++i) function(segment.histories.get()[i]);
  }
};
