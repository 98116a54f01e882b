// A search as it is run, whatever its units are: plans become models that a store of levels puts together, models are
// measured by their divergence from the dense one, what was measured is kept in a journal, and rounds go on until the
// plans, the time or the hope is over (level_search.h decides what is tried).
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/device/device.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/model/model.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/tune/level_search.h"
#include "swiftprune/tune/level_store.h"
#include "swiftprune/tune/tune.h"

namespace swiftprune {

// Every token but the first of each window.
ScoredWindows all_scored(const TokenWindows& windows);

class PlanSearch {
 public:
  // A model folder with these levels of the units, by their numbers in the store, which goes with the returned object.
  using Compose = std::function<std::unique_ptr<TemporaryFolder>(const std::vector<std::size_t>& numbers,
                                                                 const std::string& name)>;
  using Point = std::function<TunePoint(const std::string& name, const Levels& plan, double search_kl)>;

  // The time begins. All references outlive it.
  PlanSearch(const Model& model, Device& device, const TuneText& text, const SearchOptions& options,
             Communicator& ranks, Compose compose);

  // Throws Error{kUsage} where ranks do not see the folder.
  void check_folder() const;
  // What a run of the same identity left in the folder when its levels were solved: the `head` of levels.json. Nothing where
  // there is none; Error{kUsage} for another run's.
  std::optional<nlohmann::json> kept_head() const;
  std::string kept_file() const { return (options_.folder / kLevelsFile).string(); }
  // For stores that have no more to keep.
  void keep_head(const nlohmann::ordered_json& head) const;

  // numbers: of each of the unit's levels, the store's.
  void add_unit(SearchUnit unit, std::vector<std::size_t> numbers);
  const std::vector<SearchUnit>& units() const { return units_; }
  // Levels of a unit at most.
  std::size_t most_levels() const;
  std::vector<std::size_t> stored(const Levels& plan) const;

  // Takes up the journal and measures the start, which is each unit's own.
  double measure_start();
  const Levels& start() const { return start_; }
  // Of a size that goal() says anew when it is asked for what is next. An interrupt ends it where there is one rank, else it
  // leaves as Interrupted.
  void run(SearchGoal goal, TunedPlan& result);
  const LevelSearch& search() const { return *search_; }

  std::vector<double> search_kl(std::span<const Levels> plans);
  // The best plan's neighbours in size, by what was learned, measured once; and how all of them do on the check's text.
  void measure_line(const Levels& best, const Point& point, TunedPlan& result);

  // Throws Error{kUsage} where a limit of divergence was the goal and is not kept, with what is the least.
  void check_divergence(const TuneBudget& budget, const TunedPlan& result) const;

  // Would this share of the time be over behind what is to come? By the first rank's clock.
  bool is_over(double share, double seconds_to_come) const;

 private:
  std::vector<double> measure(std::span<const Levels> plans, const TokenWindows& windows);
  std::vector<double> measure_here(std::span<const Levels> plans, const TokenWindows& windows);
  std::filesystem::path journal() const { return options_.folder / "trials.jsonl"; }
  void read_trials();
  void append_trials(const std::string& lines) const;
  void learn_known();
  void run_rounds(TunedPlan& result);

  const Model& model_;
  Device& device_;
  const TuneText& text_;
  const SearchOptions& options_;
  Communicator& ranks_;
  const Compose compose_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::vector<SearchUnit> units_;
  std::vector<std::vector<std::size_t>> numbers_;  // of each unit's levels
  Levels start_;
  double start_kl_ = 0.0;
  std::map<std::string, double> known_;  // divergence on the search's windows by the store's levels
  std::optional<LevelSearch> search_;
};

}  // namespace swiftprune
