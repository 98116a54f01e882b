// What swiftprune.json says of a pruned checkpoint, as far as it can be tested. Unknown fields are left
// alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/selection/pattern.h"

namespace swiftprune {

struct RecordedTensor {
  std::string name;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  Pattern pattern;
  std::optional<double> sparsity;
  std::vector<std::int64_t> order;  // TensorResult::order
  std::int64_t low_rank = 0;
};

struct PruneRecord {
  std::string method;
  bool weights_changed = true;
  bool has_low_rank() const;  // any tensor
  // Files and hashes of the model that was pruned, then those of the model that this one came from, and so on.
  std::vector<std::map<std::string, std::string>> inputs;
  std::vector<RecordedTensor> tensors;
};

// Nothing when the folder has no swiftprune.json; throws Error{kBadInput} naming the file and the field.
std::optional<PruneRecord> read_prune_record(const std::filesystem::path& folder);

}  // namespace swiftprune
