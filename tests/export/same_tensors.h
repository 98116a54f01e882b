// Two folders hold the same tensors, bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "checkpoint/gguf_fixture.h"

namespace swiftprune::test {

// GGUF has -e^x of decays, which does not tell all floats apart.
inline bool is_decay(const std::string& tensor) { return tensor.ends_with("A_log"); }

inline void expect_near(const Checkpoint& a, const Checkpoint& b, const std::string& name) {
  const std::vector<float> x = a.load_vector(name, a.at(name).numel()),
                           y = b.load_vector(name, b.at(name).numel());
  for (std::size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(y[i], x[i], 2e-7f * std::max(1.0f, std::abs(x[i]))) << name;
}

inline void expect_same_tensors(const std::filesystem::path& a, const std::filesystem::path& b) {
  const Checkpoint first = Checkpoint::open(a), second = Checkpoint::open(b);
  ASSERT_EQ(first.tensors().size(), second.tensors().size());
  for (const TensorInfo& tensor : first.tensors()) {
    const TensorInfo* other = second.find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(tensor.shape, other->shape) << tensor.name;
    EXPECT_EQ(tensor.dtype, other->dtype) << tensor.name;
    if (is_decay(tensor.name)) {
      expect_near(first, second, tensor.name);
    } else {
      EXPECT_EQ(bytes_of(first, tensor), bytes_of(second, *other)) << tensor.name;
    }
  }
}

}  // namespace swiftprune::test
