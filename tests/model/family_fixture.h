// The tiny models of tests/data/model (tools/make_family_fixtures.py) and, with experts, of tests/data/experts
// (tools/make_expert_fixtures.py), and what transformers computes with them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/json.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune::test {

inline const std::filesystem::path kModels = SWIFTPRUNE_TEST_DATA "/model";

inline const std::filesystem::path kExpertModels = SWIFTPRUNE_TEST_DATA "/experts";

inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

inline std::vector<std::string> model_names() { return names_in(kModels); }
inline std::vector<std::string> expert_model_names() { return names_in(kExpertModels); }
// With experts and without.
inline std::vector<std::string> all_model_names() {
  std::vector<std::string> names = model_names();
  for (std::string& name : expert_model_names()) names.push_back(std::move(name));
  return names;
}
inline std::filesystem::path model_folder(const std::string& name) {
  return (std::filesystem::exists(kModels / name) ? kModels : kExpertModels) / name;
}

inline nlohmann::json config_of(const std::string& name) {
  return read_json_file(kModels / name / "config.json");
}

// expected.safetensors of one model.
class Expected {
 public:
  explicit Expected(const std::string& name)
      : file_(model_folder(name) / "expected.safetensors"), header_(parse_safetensors(file_.bytes(), name)) {}

  bool has(const std::string& name) const {
    return std::any_of(header_.tensors.begin(), header_.tensors.end(),
                       [&](const TensorInfo& t) { return t.name == name; });
  }
  // The token ids [S, T].
  TokenWindows windows() const {
    const TensorInfo& ids = find("ids");
    TokenWindows windows{ids.shape[1], std::vector<std::int32_t>(static_cast<std::size_t>(ids.numel()))};
    std::memcpy(windows.ids.data(), data(ids), static_cast<std::size_t>(ids.num_bytes()));
    return windows;
  }
  // All but the last extent are rows.
  Matrix matrix(const std::string& name) const {
    const TensorInfo& tensor = find(name);
    Matrix result(tensor.numel() / tensor.shape.back(), tensor.shape.back());
    std::memcpy(result.data(), data(tensor), static_cast<std::size_t>(tensor.num_bytes()));
    return result;
  }

 private:
  const TensorInfo& find(const std::string& name) const {
    const auto it = std::find_if(header_.tensors.begin(), header_.tensors.end(),
                                 [&](const TensorInfo& t) { return t.name == name; });
    expect(it != header_.tensors.end(), "a tensor of the fixture");
    return *it;
  }
  const std::byte* data(const TensorInfo& tensor) const {
    return file_.bytes().data() + header_.data_begin + tensor.begin;
  }

  MappedFile file_;
  SafetensorsHeader header_;
};

inline double max_difference(ConstMatrixView a, ConstMatrixView b) {
  expect(a.rows == b.rows && a.cols == b.cols, "matrices of one shape");
  double most = 0.0;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.cols; ++c) {
      const double d = std::abs(double{a.at(r, c)} - double{b.at(r, c)});
      if (!(d <= most)) most = d;  // NaN too
    }
  }
  return most;
}

}  // namespace swiftprune::test
