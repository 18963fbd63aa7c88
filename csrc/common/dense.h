// Gives tensors as contiguous numbers of one type. Most are such already, and then nothing is copied.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

inline torch::stable::Tensor dense(const torch::stable::Tensor& tensor, torch::headeronly::ScalarType dtype) {
  return torch::stable::contiguous(torch::stable::to(tensor, dtype));
}

template <class T> const T* numbers(const torch::stable::Tensor& dense) {
  return static_cast<const T*>(dense.const_data_ptr());
}

// Returns null for an empty tensor, which means that its numbers were not asked for.
template <class T> T* results(const torch::stable::Tensor& dense) {
  return dense.numel() ? static_cast<T*>(dense.mutable_data_ptr()) : nullptr;
}
