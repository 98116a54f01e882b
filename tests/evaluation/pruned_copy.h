// Changed copies of the tiny model of tests/data/evaluation.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/checkpoint_writer.h"

namespace swiftprune::test {

inline const std::filesystem::path kEvaluationData = SWIFTPRUNE_TEST_DATA "/evaluation";
inline const std::filesystem::path kTinyModel = kEvaluationData / "model";

using ChangeFn = std::function<void(const std::string& name, std::vector<float>& values)>;

inline void write_changed(const std::filesystem::path& target, const ChangeFn& change,
                          const std::map<std::string, std::string>& files = {},
                          const std::filesystem::path& from = kTinyModel) {
  const Checkpoint source = Checkpoint::open(from);
  CheckpointWriter writer(target, plan_like(source));
  for (const TensorInfo& info : source.tensors()) {
    std::vector<float> values;
    if (info.shape.size() == 2) {
      const Matrix matrix = source.load_matrix(info.name, info.shape[0], info.shape[1]);
      values.assign(matrix.values().begin(), matrix.values().end());
    } else {
      values = source.load_vector(info.name, info.numel());
    }
    change(info.name, values);
    writer.write(info.name, values);
  }
  for (const auto& [name, content] : files) writer.write_file(name, content);
  writer.copy_other_files(source);
  writer.finish();
}

// Of every m weights of the linears the first m - n become zero.
inline ChangeFn zeros(std::size_t n, std::size_t m, const std::string& only = "proj") {
  return [=](const std::string& name, std::vector<float>& values) {
    if (name.find("proj") == std::string::npos || name.find(only) == std::string::npos) return;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % m < m - n) values[i] = 0.0f;
    }
  };
}

}  // namespace swiftprune::test
