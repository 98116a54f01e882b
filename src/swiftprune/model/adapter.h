// A LoRA folder as PEFT writes it (adapter_config.json, adapter_model.safetensors): low-rank parts L = scaling·B·A that
// stand beside linears of a model, y = W x + L x. Written by `prune --low-rank`, read of any origin: files are hostile.
// What is more than that (DoRA, biases, retrained modules, embeddings, experts) is refused by name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/tensor/low_rank.h"

namespace swiftprune {

// Where `prune --low-rank` puts it, inside the model's folder.
inline constexpr const char* kAdapterFolder = "adapter";

// Tensors of a linear's part: A [R, I] and B [O, R]. linear: its module path, without ".weight".
std::string adapter_right_name(std::string_view linear);
std::string adapter_left_name(std::string_view linear);

class Adapter {
 public:
  // Throws Error{kBadInput} that names file, field or tensor, also for a part of what is no linear of `model` that every
  // token passes, or that has another shape.
  static std::shared_ptr<const Adapter> open(const std::filesystem::path& folder, const ModelConfig& model);

  const std::filesystem::path& folder() const { return folder_; }
  std::int64_t num_linears() const { return static_cast<std::int64_t>(parts_.size()); }
  std::int64_t num_parameters() const;
  std::int64_t num_bytes() const;                         // of the tensors
  std::int64_t rank_of(const std::string& linear) const;  // 0 where it has no part
  // With the scaling in its left factor; nothing where the linear has no part. Throws Error{kBadInput} for numbers that
  // are not finite.
  std::optional<LowRank> load(const std::string& linear) const;

 private:
  struct Part {
    TensorInfo left, right;
    double scaling = 1.0;
  };
  explicit Adapter(const std::filesystem::path& folder);
  Matrix load_factor(const TensorInfo& tensor) const;

  std::filesystem::path folder_;
  MappedFile file_;
  std::uint64_t data_begin_ = 0;
  std::map<std::string, Part> parts_;  // by linear
};

}  // namespace swiftprune
