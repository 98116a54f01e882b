// Where the tensors of finished blocks go: bytes in the checkpoint's own dtype, whichever device made them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

class TensorOutput {
 public:
  virtual ~TensorOutput() = default;
  // Does the tensor go anywhere? Where several ranks write, each output takes its share; what it does not take need not
  // be fetched for it.
  virtual bool takes(const std::string&) const { return true; }
  // Elements [first, ...) of a tensor in the checkpoint's dtype; parts do not overlap and may come from
  // several threads at once.
  virtual void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) = 0;
};

// The whole tensor, converted on all threads. -0 becomes +0.
void write_tensor(TensorOutput& output, const std::string& name, DType dtype, std::span<const float> values);

}  // namespace swiftprune
