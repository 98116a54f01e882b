// The widths at which each layer was solved, on disk, and the models of a search over layers, which are put together of
// them without copying a weight (level_store.h does the same for linears). A narrower layer is held at the dense model's
// shapes: the output projections' columns that went are zeros, which computes the same as if the units were not there, and
// a layer that goes adds nothing to the residual. So one config.json serves all plans, and the other linears are the dense
// model's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/structure/shrink_shape.h"

namespace swiftprune {

// What is left of a layer.
struct LayerLevel {
  std::int64_t channels = 0, groups = 0;  // 0: the layer goes
  bool is_gone() const { return channels == 0; }
};

class WidthStore {
 public:
  // shapes: narrower ones of all layers alike. Of each number of channels or groups the first shape that has it is where it
  // is solved.
  WidthStore(std::filesystem::path folder, const Model& model, std::vector<ShrinkShape> shapes,
             Communicator& ranks);

  // Shrinks the model to each of the shapes, as shrink() does with least squares on its own inputs; of several ranks each
  // some of them. Behind the call everything is there, of all ranks.
  void solve(Device& device, const TokenWindows& windows, const ShrinkOptions& options) const;

  // A model folder with these levels, one for each layer, which goes with the returned object.
  std::unique_ptr<TemporaryFolder> compose(std::span<const LayerLevel> levels, const std::string& name) const;

 private:
  std::filesystem::path dense_folder() const { return folder_ / "dense"; }
  std::filesystem::path silent_folder() const { return folder_ / "silent"; }
  std::filesystem::path width_folder(std::size_t shape) const;
  // The projections that read this input, in one layer.
  std::vector<LinearTensors> outputs(std::int64_t layer, LinearInput input) const;
  // The shape where this many units were solved.
  std::size_t solved_in(LinearInput output, std::int64_t units) const;
  void write_dense() const;
  void write_silent() const;
  void solve_shape(std::size_t shape, Device& device, const TokenWindows& windows,
                   const ShrinkOptions& options) const;

  const std::filesystem::path folder_;
  const Model& model_;
  const std::vector<ShrinkShape> shapes_;
  Communicator& ranks_;
};

}  // namespace swiftprune
