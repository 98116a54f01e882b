// The weights of a checkpoint, one by one. Here each has a tensor of its own; a derived class knows of weights that are
// part of a larger tensor (experts of a block in one tensor, model/stored_weights.h). A folder where each of those has
// a tensor of its own is the same model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

class WeightParts {
 public:
  struct Info {
    DType dtype = DType::kF32;
    std::int64_t rows = 0, cols = 0;
    std::string file;
    std::int64_t numel() const { return rows * cols; }
    std::int64_t num_bytes() const { return numel() * size_of(dtype); }
  };

  // `checkpoint` must outlive this.
  explicit WeightParts(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  WeightParts(const WeightParts&) = delete;
  WeightParts& operator=(const WeightParts&) = delete;
  virtual ~WeightParts() = default;

  // The tensors that hold parts: weights only, not biases.
  virtual bool holds_parts(const std::string&) const { return false; }
  // The names of all parts, in the order of the model's blocks.
  const std::vector<std::string>& part_names() const { return part_names_; }
  // A folder like the source's where each part has a tensor of its own.
  virtual std::vector<PlannedTensor> plan_in_parts() const { return plan_like(checkpoint_); }
  // Of a part, or of a tensor, which must be a matrix; bytes [O, I] in Info::dtype. Throws Error{kBadInput}.
  virtual Info info(const std::string& name) const;
  virtual std::vector<std::byte> bytes(const std::string& name) const;
  // Its pages are not needed for now; those of a tensor that holds several weights go with the last of them.
  virtual void release(const std::string& name) const { checkpoint_.release(checkpoint_.at(name)); }

 protected:
  const Checkpoint& checkpoint_;
  std::vector<std::string> part_names_;
};

}  // namespace swiftprune
