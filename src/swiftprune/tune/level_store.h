// The levels at which each linear was solved, on disk: one folder for each number of a level, and the models of a search,
// which are put together of them by an index of tensors and files without copying a weight. So they are read as any other
// model is, mapped, wherever a device computes them. Of several ranks each solves some levels of every linear, in folders of
// its own; all read all, so all must see the store's folder.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pilot/trial.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/plan.h"

namespace swiftprune {

// In a search's folder: that its levels are solved, and by what.
inline constexpr const char* kLevelsFile = "levels.json";
void write_levels(const nlohmann::ordered_json& document, const std::filesystem::path& folder);

struct SolvedLevel {
  double sparsity = 0.0;  // asked for
  std::optional<QuantGrid> grid;
  Pattern pattern = {};  // Kind::kRow or kNofM
  double zeros = 0.0;    // share of the weights that are zero, those that the grid rounds to it among them
  double error = 0.0;    // relative, of the linear's output on the calibration text
};
// "70 %", "int4, 50 %", "2:4", "int4, 2:4", "dense"
std::string describe(const SolvedLevel& level);

// A linear whose level is to be chosen; level 0 is the plan's own.
struct SolvedUnit {
  std::size_t entry = 0;  // of the plan
  std::vector<SolvedLevel> levels;
};

// What prune() makes of the model, as a folder that a search measures.
PruneResult prune_into(const std::filesystem::path& folder, const Model& model, Device& device,
                       const Plan& plan, const TokenWindows& windows, const PruneOptions& options);

// A model folder of links, which goes with the returned object: the tensors of the model in `base`, those named in
// `tensors` from the safetensors file of the folder that stands there.
std::unique_ptr<TemporaryFolder> compose_model(const std::filesystem::path& folder,
                                               const std::filesystem::path& base,
                                               const std::map<std::string, std::filesystem::path>& tensors);

class LevelStore {
 public:
  explicit LevelStore(std::filesystem::path folder, Communicator& ranks = alone())
      : folder_(std::move(folder)), ranks_(ranks) {}

  // Prunes the model by the plan, as prune() does, and solves every linear at the other levels beside it, by the same
  // statistics: the inputs that the plan's own pruned model gives. levels: of each entry; empty for those that stay. The
  // folder is there and empty. Behind the call everything is there, of all ranks. Throws what Device::prune() throws.
  void solve(const Model& model, Device& device, const Plan& plan, std::vector<std::vector<PlanEntry>> levels,
             const TokenWindows& windows, PruneOptions options);

  // levels.json, by the first rank: `head` and what was solved, which restore() takes up; throws Error{kBadInput} for a
  // file that is damaged or of another model.
  void keep(const nlohmann::ordered_json& head) const;
  void restore(const Plan& plan);

  const std::vector<SolvedUnit>& units() const { return units_; }
  const std::filesystem::path& folder() const { return folder_; }

  // A model folder with these levels, one for each of units(), which goes with the returned object.
  std::unique_ptr<TemporaryFolder> compose(const std::vector<std::size_t>& levels,
                                           const std::string& name) const;

 private:
  std::filesystem::path start_folder() const { return folder_ / "start"; }
  // Where the solver has its linears of a level.
  std::filesystem::path level_folder(std::size_t level, int solver) const;
  // The rank that solves, or solved, this level (from 1 on) of the unit: in turn.
  int solver_of(std::size_t unit, std::size_t level) const;
  PruneResult solve_start(const Model& model, Device& device, const Plan& plan, const TokenWindows& windows,
                          const PruneOptions& options) const;
  void exchange_results();

  std::filesystem::path folder_;
  Communicator& ranks_;
  int solvers_ = 1;  // ranks that solved the levels
  std::vector<SolvedUnit> units_;
  std::vector<std::string> names_;  // of the units' tensors
};

}  // namespace swiftprune
