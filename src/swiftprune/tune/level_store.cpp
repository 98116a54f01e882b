#include "swiftprune/tune/level_store.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/pipeline/checkpoint_output.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

// Tensors of one level's folder, which prune() hands over one after the other.
class LevelOutput final : public TensorOutput {
 public:
  explicit LevelOutput(CheckpointWriter& writer) : writer_(writer) {}
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override {
    writer_.write_bytes_part(name, first, bytes);
  }

 private:
  CheckpointWriter& writer_;
};

// Not measured yet.
SolvedLevel asked(const PlanEntry& entry) { return {entry.sparsity, entry.grid, entry.pattern, 0.0, 0.0}; }

SolvedLevel solved(const PlanEntry& entry, const TensorResult& result) {
  return {entry.sparsity, entry.grid, entry.pattern, result.sparsity, result.error.value_or(result.sparsity)};
}

nlohmann::ordered_json to_json(const SolvedLevel& level) {
  nlohmann::ordered_json item = {{"sparsity", level.sparsity}};
  if (level.grid) item["quantize"] = format(*level.grid);
  if (level.pattern != Pattern{}) item["pattern"] = format(level.pattern);
  item["zeros"] = level.zeros;
  item["error"] = level.error;
  return item;
}

SolvedLevel read_level(const JsonField& item) {
  SolvedLevel level;
  level.sparsity = item.at("sparsity").number();
  if (const auto grid = item.string_if("quantize")) level.grid = parse_grid(*grid, item.where());
  if (const auto pattern = item.string_if("pattern")) {
    try {
      level.pattern = parse_pattern(*pattern);
    } catch (const Error&) {
      item.at("pattern").unexpected("a pattern such as 2:4");
    }
  }
  level.zeros = item.at("zeros").number();
  level.error = item.at("error").number();
  const auto is_share = [](double value) { return value >= 0.0 && value <= 1.0; };
  if (!is_share(level.sparsity) || !is_share(level.zeros) || !(level.error >= 0.0))
    item.unexpected("shares of 0 to 1 and an error of at least 0");
  return level;
}

}  // namespace

std::string describe(const SolvedLevel& level) {
  const bool is_n_m = level.pattern.kind == Pattern::Kind::kNofM;
  const std::string zeros = is_n_m               ? format(level.pattern)
                            : level.sparsity > 0 ? fmt::format("{:.0f} %", 100.0 * level.sparsity)
                                                 : std::string();
  if (!level.grid) return zeros.empty() ? "dense" : zeros;
  const std::string grid = fmt::format("int{}", level.grid->bits);
  return zeros.empty() ? grid : fmt::format("{}, {}", grid, zeros);
}

void write_levels(const nlohmann::ordered_json& document, const fs::path& folder) {
  const fs::path unfinished = folder / fmt::format(".{}", kLevelsFile);
  write_whole(unfinished, document.dump(1) + "\n");
  fs::rename(unfinished, folder / kLevelsFile);
}

PruneResult prune_into(const fs::path& folder, const Model& model, Device& device, const Plan& plan,
                       const TokenWindows& windows, const PruneOptions& options) {
  CheckpointWriter writer(folder, plan_like(model.checkpoint()));
  CheckpointOutput output(model.checkpoint(), writer);
  PruneResult result = device.prune(model, plan, windows, options, output);
  output.copy_rest();
  writer.copy_other_files(model.checkpoint());
  writer.finish();
  return result;
}

fs::path LevelStore::level_folder(std::size_t level, int solver) const {
  return folder_ / (solver == 0 ? fmt::format("level-{:02}", level)
                                : fmt::format("level-{:02}-rank-{}", level, solver));
}

int LevelStore::solver_of(std::size_t unit, std::size_t level) const {
  return static_cast<int>((unit + level - 1) % static_cast<std::size_t>(solvers_));
}

// What each rank measured of the levels that it solved, to all; behind it all have written theirs.
void LevelStore::exchange_results() {
  std::vector<double> values;
  std::vector<int> solver;
  for (std::size_t u = 0; u < units_.size(); ++u) {
    for (std::size_t l = 1; l < units_[u].levels.size(); ++l) {
      values.insert(values.end(), {units_[u].levels[l].zeros, units_[u].levels[l].error});
      solver.insert(solver.end(), 2, solver_of(u, l));
    }
  }
  exchange_owned(ranks_, values, [&](std::size_t i) { return solver[i]; });
  std::size_t next = 0;
  for (SolvedUnit& unit : units_) {
    for (std::size_t l = 1; l < unit.levels.size(); ++l) {
      unit.levels[l].zeros = values[next++];
      unit.levels[l].error = values[next++];
    }
  }
}

void LevelStore::solve(const Model& model, Device& device, const Plan& plan,
                       std::vector<std::vector<PlanEntry>> levels, const TokenWindows& windows,
                       PruneOptions options) {
  expect(levels.size() == plan.entries.size(), "LevelStore: levels of each entry");
  const Checkpoint& source = model.checkpoint();
  std::size_t most = 0;
  units_.clear();
  names_.clear();
  std::vector<std::size_t> unit_of(plan.entries.size());
  for (std::size_t e = 0; e < levels.size(); ++e) {
    most = std::max(most, levels[e].size());
    if (levels[e].empty()) continue;
    unit_of[e] = units_.size();
    SolvedUnit& unit = units_.emplace_back(SolvedUnit{e, {asked(plan.entries[e])}});
    for (const PlanEntry& level : levels[e]) unit.levels.push_back(asked(level));
    names_.push_back(plan.entries[e].tensor);
  }
  solvers_ = ranks_.size();
  const auto is_own = [&](std::size_t e, std::size_t l) {
    return solver_of(unit_of[e], l + 1) == ranks_.rank();
  };
  std::vector<std::unique_ptr<CheckpointWriter>> writers;  // null where this rank has nothing of a level
  for (std::size_t l = 0; l < most; ++l) {
    std::vector<PlannedTensor> tensors;
    for (std::size_t e = 0; e < levels.size(); ++e) {
      if (l >= levels[e].size() || !is_own(e, l)) continue;
      const TensorInfo& info = source.at(plan.entries[e].tensor);
      tensors.push_back({info.name, info.dtype, info.shape, kSafetensorsFile, false, info.transposed});
    }
    auto& writer = writers.emplace_back();
    if (!tensors.empty())
      writer = std::make_unique<CheckpointWriter>(level_folder(l + 1, ranks_.rank()), std::move(tensors));
  }
  SolvedLevels beside;
  beside.levels = std::move(levels);
  beside.is_own = is_own;
  beside.take = [&](std::size_t e, std::size_t l, const TensorResult& result, ConstMatrixView weight) {
    LevelOutput output(*writers[l]);
    write_tensor(output, result.name, source.at(result.name).dtype,
                 {weight.data, static_cast<std::size_t>(weight.rows * weight.cols)});
    units_[unit_of[e]].levels[l + 1] = solved(beside.levels[e][l], result);
  };
  options.levels = &beside;
  options.ranks = &ranks_;
  const PruneResult result = solve_start(model, device, plan, windows, options);
  std::map<std::string_view, const TensorResult*> by_name;
  for (const TensorResult& tensor : result.tensors) by_name.emplace(tensor.name, &tensor);
  for (SolvedUnit& unit : units_) {
    const PlanEntry& entry = plan.entries[unit.entry];
    unit.levels[0] = solved(entry, *by_name.at(entry.tensor));
  }
  for (const auto& writer : writers) {
    if (writer) writer->finish();
  }
  exchange_results();
}

// The plan's own pruned model, which the first rank writes.
PruneResult LevelStore::solve_start(const Model& model, Device& device, const Plan& plan,
                                    const TokenWindows& windows, const PruneOptions& options) const {
  if (!ranks_.is_first()) {
    NoOutput nothing(false);
    return device.prune(model, plan, windows, options, nothing);
  }
  return prune_into(start_folder(), model, device, plan, windows, options);
}

void LevelStore::keep(const nlohmann::ordered_json& head) const {
  if (!ranks_.is_first()) return;
  nlohmann::ordered_json units = nlohmann::ordered_json::array();
  for (std::size_t u = 0; u < units_.size(); ++u) {
    nlohmann::ordered_json levels = nlohmann::ordered_json::array();
    for (const SolvedLevel& level : units_[u].levels) levels.push_back(to_json(level));
    units.push_back({{"name", names_[u]}, {"levels", std::move(levels)}});
  }
  write_levels({{"head", head}, {"solvers", solvers_}, {"units", std::move(units)}}, folder_);
}

void LevelStore::restore(const Plan& plan) {
  const fs::path file = folder_ / kLevelsFile;
  const nlohmann::json document = read_json_file(file);
  const JsonField root(document, file.string());
  std::map<std::string, std::size_t> entries;
  for (std::size_t e = 0; e < plan.entries.size(); ++e) entries.emplace(plan.entries[e].tensor, e);
  units_.clear();
  names_.clear();
  solvers_ = static_cast<int>(root.at("solvers").integer(1, 1 << 20));
  for (const JsonField& item : root.at("units").items()) {
    const std::string& name = item.at("name").string();
    const auto entry = entries.find(name);
    if (entry == entries.end()) item.at("name").unexpected("a linear of this model");
    SolvedUnit unit{entry->second, {}};
    for (const JsonField& level : item.at("levels").items()) unit.levels.push_back(read_level(level));
    if (unit.levels.empty()) item.at("levels").unexpected("one level at least");
    const std::size_t last = unit.levels.size() - 1;
    units_.push_back(std::move(unit));
    names_.push_back(name);
    if (last == 0) continue;
    const fs::path weights = level_folder(last, solver_of(units_.size() - 1, last)) / kSafetensorsFile;
    if (!fs::exists(weights))
      bad_input("{}: names {} levels, but there is no {}", item.where(), last + 1, weights.string());
  }
  const auto tuned = std::count_if(plan.entries.begin(), plan.entries.end(),
                                   [](const PlanEntry& entry) { return entry.prune; });
  if (std::ssize(units_) != tuned)
    bad_input("{}: found {} linears, expected {}", file.string(), units_.size(), tuned);
}

std::unique_ptr<TemporaryFolder> LevelStore::compose(const std::vector<std::size_t>& levels,
                                                     const std::string& name) const {
  expect(levels.size() == units_.size(), "compose: a level for each unit");
  std::map<std::string, fs::path> tensors;
  for (std::size_t u = 0; u < units_.size(); ++u) {
    if (levels[u] != 0) tensors[names_[u]] = level_folder(levels[u], solver_of(u, levels[u]));
  }
  return compose_model(folder_ / name, start_folder(), tensors);
}

std::unique_ptr<TemporaryFolder> compose_model(const fs::path& folder, const fs::path& base,
                                               const std::map<std::string, fs::path>& tensors) {
  auto composed = std::make_unique<TemporaryFolder>(folder);
  fs::remove_all(folder);  // of a run that was killed
  fs::create_directory(folder);
  const Checkpoint start = Checkpoint::open(base);
  nlohmann::json map;
  std::map<std::string, fs::path> files;  // by their name in the folder
  for (const TensorInfo& tensor : start.tensors()) {
    const std::string link = "start-" + tensor.file;
    files.emplace(link, fs::absolute(base) / tensor.file);
    map[tensor.name] = link;
  }
  for (const auto& [tensor, from] : tensors) {
    const std::string link = fmt::format("{}.safetensors", from.filename().string());
    files.emplace(link, fs::absolute(from) / kSafetensorsFile);
    map[tensor] = link;
  }
  for (const auto& [link, file] : files) fs::create_symlink(file, folder / link);
  write_whole(folder / kSafetensorsIndexFile, nlohmann::json{{"weight_map", map}}.dump());
  fs::create_symlink(fs::absolute(base) / "config.json", folder / "config.json");
  return composed;
}

}  // namespace swiftprune
