// Matrices as tensor cores see them: TF32 numbers, and tiles of shared memory that a descriptor describes.
#pragma once

#include <bit>

#include "machine.h"

constexpr uint64_t POISON = 0x7fc0dead;  // a NaN, in registers whose result has not arrived

inline float tensor_float(uint64_t bits) {  // the hardware cuts the low 13 bits off
  return std::bit_cast<float>(static_cast<uint32_t>(bits) & ~0x1fffu);
}

// A tile of rows of 32-bit numbers, each row 32, 64 or 128 bytes, whose 16-byte chunks are swizzled.
class Tile {
 public:
  explicit Tile(uint64_t descriptor)
      : start_((descriptor & 0x3fff) << 4), stride_((descriptor >> 32 & 0x3fff) << 4), mode_(descriptor >> 62) {
    if (!mode_ || descriptor >> 61 & 1)
      throw Fault("a descriptor of shared memory must have a swizzle of 32 to 128 bytes");
    if (descriptor >> 49 & 7) throw Fault("a descriptor of shared memory must have no base offset");
  }

  // The first eight columns.
  std::vector<std::array<float, 8>> load(Program& program, uint32_t rows, const Moment& now) const {
    std::vector<std::array<float, 8>> numbers(rows);
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t column = 0; column < 8; ++column) {
        uint64_t address = start_ + row / 8 * stride_ + row % 8 * (256 >> mode_) + column * 4;
        address ^= address >> 3 & (0xf0 >> mode_ & 0x70);
        uint32_t bits;
        program.shared.read_by_proxy(address, &bits, sizeof bits, now, program.fences.data());
        numbers[row][column] = tensor_float(bits);
      }
    }
    return numbers;
  }

 private:
  uint64_t start_, stride_;
  int mode_;  // 1 is 128 bytes, 2 is 64, 3 is 32
};
