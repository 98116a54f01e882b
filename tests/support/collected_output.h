// What a pruning run writes, by tensor.
#pragma once

#include <map>
#include <mutex>

#include "swiftprune/pipeline/drivers/prune.h"

namespace swiftprune::test {

class Collected final : public PruneOutput {
 public:
  using Bytes = std::vector<std::byte>;

  explicit Collected(const Checkpoint& source) : source_(source) {}
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> part) override {
    const std::lock_guard lock(mutex_);
    Bytes& bytes = tensors[name];
    bytes.resize(static_cast<std::size_t>(source_.at(name).num_bytes()));
    const auto offset = static_cast<std::size_t>(first * size_of(source_.at(name).dtype));
    std::copy(part.begin(), part.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  void finish(const FinishedBlock& block) override { finished.push_back(block); }
  void read(const std::string& name, std::span<float> to) override {
    convert_to_f32(tensors.at(name), source_.at(name).dtype, to);
  }
  std::vector<float> values(const std::string& name) const {
    const Bytes& bytes = tensors.at(name);
    const DType dtype = source_.at(name).dtype;
    std::vector<float> result(bytes.size() / static_cast<std::size_t>(size_of(dtype)));
    convert_to_f32(bytes, dtype, result);
    return result;
  }
  std::map<std::string, Bytes> tensors;
  std::vector<FinishedBlock> finished;

 private:
  const Checkpoint& source_;
  std::mutex mutex_;
};

}  // namespace swiftprune::test
