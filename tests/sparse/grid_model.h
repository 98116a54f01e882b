// A model folder whose linears are random weights of few bits on a grid.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "sparse/weights.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::testing_sparse {

// `linears`: names of the weights that come from the grid, half of them zeros. table: name of one in few bits, where
// table_bits > 0. The values of both.
inline std::map<std::string, Matrix> write_grid_model(const Checkpoint& source,
                                                      std::span<const std::string> linears,
                                                      const QuantGrid& grid, const std::string& table,
                                                      int table_bits, const std::filesystem::path& folder) {
  std::map<std::string, PackedTensor> packed;
  std::map<std::string, Matrix> values;
  std::vector<PlannedTensor> plan = plan_like(source);
  for (PlannedTensor& tensor : plan) {
    const bool is_table = table_bits > 0 && tensor.name == table;
    if (!is_table && std::find(linears.begin(), linears.end(), tensor.name) == linears.end()) continue;
    PackedTensor made = [&] {
      if (is_table) return pack_table(source, tensor.name, table_bits);
      const QuantizedWeight w = random_grid_weight(tensor.shape[0], tensor.shape[1], grid, 0.5);
      return pack_smallest(w);
    }();
    values.emplace(tensor.name, unpack_f32(made));
    tensor = {tensor.name + kPackedSuffix, DType::kU8, {std::ssize(made.bytes())}, tensor.file, true};
    packed.emplace(tensor.name, std::move(made));
  }
  CheckpointWriter writer(folder, plan);
  for (const PlannedTensor& tensor : plan) {
    const auto made = packed.find(tensor.name);
    writer.write_bytes(tensor.name,
                       made != packed.end() ? made->second.bytes() : source.bytes(source.at(tensor.name)));
  }
  writer.copy_other_files(source);
  writer.finish();
  return values;
}

}  // namespace swiftprune::testing_sparse
