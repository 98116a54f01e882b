// The tensors of a file that torch.save wrote (pytorch_model.bin), read without running its pickle: the zip
// archive of PyTorch 1.6 and later, and the plain sequence of pickles before it. Format: docs/formats.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

// A view of a storage, whose bytes lie in the file. Several tensors may share one.
struct PytorchTensor {
  std::string name = {};
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape = {};
  std::vector<std::int64_t> strides = {};  // elements, none negative
  std::uint64_t begin = 0;                 // of the first element, bytes from the start of the file
  bool swapped = false;                    // the other byte order
  bool contiguous = true;                  // row-major without gaps
};

// Throws Error{kBadInput} that starts with `name`. What it returns lies inside the file.
std::vector<PytorchTensor> parse_pytorch(std::span<const std::byte> file, const std::string& name);

// The elements in row-major order, little endian. file: the bytes that were parsed.
std::vector<std::byte> gather(std::span<const std::byte> file, const PytorchTensor& tensor);

}  // namespace swiftprune
