// `tune`: the plan of a model's pruning under a budget, searched for. Every linear is solved once at a few levels
// (level_store.h), plans that choose among them are put together and measured by their divergence from the dense model
// (level_search.h), and what is found is a plan that prune() runs. Or every layer is solved at a few widths, and the plan
// says what is left of each (unit_tune.h), for shrink(). The text has three parts: what the levels are solved
// on, what the search measures, and what checks that the search did not merely learn that.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/device/device.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/structure/block_units.h"
#include "swiftprune/text/token_windows.h"
#include "swiftprune/tune/method_parameters.h"

namespace swiftprune {

class DecodeClock;  // tune/decode_times.h

struct TuneBudget {
  enum class Kind {
    kSparsity,    // mean share of zeros of the blocks' linears
    kRatio,       // of units: share of the blocks' weights that go
    kBytes,       // of the whole model, packed
    kBits,        // a weight of the linears that are tuned, packed
    kSpeed,       // tokens a second that one sequence decodes on the device (tune/decode_times.h)
    kDivergence,  // on the search's text, nats a token: the smallest model within it
  };
  Kind kind = Kind::kSparsity;
  double value = 0.5;

  std::string_view flag() const;  // that it came from: "--sparsity"
  // "70 % zeros", "90.0 MB", "3.25 bits a weight", "55 tokens/s", "a divergence of 0.05"
  std::string text() const;
  // Is it what a plan must have at least, rather than at most?
  bool is_least() const { return kind == Kind::kSparsity || kind == Kind::kRatio || kind == Kind::kSpeed; }
};

struct TuneText {
  TokenWindows calibration;
  TokenWindows search, check;  // shorter windows, of text that the others do not hold
};
// Windows of calibration text, the first `calibration` of which levels are solved on. The next are cut into windows of
// at most kSearchTokens, half of them for the search, half for the check. Throws Error{kBadInput} naming `name` where there
// are too few for all three.
inline constexpr std::int64_t kSearchTokens = 512;
TuneText split_for_tuning(const TokenWindows& windows, std::int64_t calibration, const std::string& name);

// How long and where a search goes.
struct SearchOptions {
  std::int64_t max_trials = 256;  // plans to measure at most
  double max_seconds = 600.0;     // for everything; the levels and one round of plans are done in any case
  std::uint64_t seed = 0;
  ForwardOptions forward;
  // For levels and measured plans; those of a run with the same `identity` are taken from there.
  std::filesystem::path folder;
  nlohmann::ordered_json identity;
};

inline constexpr double kParameterShare = 0.3;

struct TuneOptions : SearchOptions {
  TuneBudget budget;
  const Method* method = nullptr;
  // Of the method, to be searched before the levels are solved (chosen_parameters()), by trials of the start plan on the
  // search's text, in kParameterShare of the time at most; none: the method's own.
  std::vector<std::string> parameters;
  SelectorOptions selector;  // of the method's selection
  std::vector<int> bits;  // grids to choose from (kQuantBits); empty: zeros alone, in the checkpoint's dtype
  std::int64_t group = QuantGrid{}.group;  // of these grids
  // N:M to choose from, beside linears without zeros; empty: shares of zeros.
  std::vector<Pattern> patterns;
  int table_bits = 0;             // of embedding and output projection, as PackOptions::table_bits
  std::vector<std::string> skip;  // linears that stay as they are (uniform_plan)
  std::vector<UnitKind> units;    // instead of zeros and grids: what may go of each layer, or all of it
  std::int64_t align = 32;        // of units: the MLP's width becomes a multiple of it
  DecodeClock* clock = nullptr;   // of budgets in tokens a second; null: the device's
};

// How the options' plan is carried out, with nothing found yet.
MethodSetup setup_of(const TuneOptions& options, std::int64_t windows);

// A plan that was measured.
struct TunePoint {
  std::string name;       // "start", "best", "smaller 1"
  double sparsity = 0.0;  // share of zeros of all linears
  double bits = 0.0;      // a weight of the tuned linears, packed
  // Of plans of units: the blocks' weights that are gone, in place of both; `bytes` as shrink writes it.
  std::optional<double> ratio;
  double bytes = 0.0;  // of the whole model, packed
  double search_kl = 0.0;
  std::optional<double> check_kl;  // nothing where the run was interrupted before
  // Of a budget in tokens a second: expected, by the products of its linears; of the best plan measured, with stand-ins.
  std::optional<double> tokens_per_second;
};

struct TunedPlan {
  Plan plan;
  std::optional<nlohmann::ordered_json> layers;  // instead, of units: pipeline/shrink_plan.h
  TunePoint start, best;  // start: by today's allocation, or the same everywhere where there are grids
  std::vector<TunePoint>
      line;  // best plans of other sizes by what was learned, with the best, the smallest first
  bool keeps_budget = false;
  std::int64_t trials = 0;  // plans that were measured, of an earlier run too
  std::int64_t tuned = 0;   // linears, or layers
  std::size_t levels = 0;   // of a linear, at most
  double solve_seconds = 0.0, search_seconds = 0.0;
  std::optional<double> dense_tokens_per_second;  // of the dense model, where the budget is a speed
  MethodSetup setup;                              // that the plan was found with, and is to be run with
  ParameterSearch parameters;                     // how it was found; empty where nothing was asked for
  std::string ended;  // "all trials", "the time", "no plan was better for 10 rounds", "interrupted"
  bool interrupted() const { return ended == "interrupted"; }
};

// Throws Error{kUsage} for a budget that no plan meets, with the nearest that one does; an interrupt before the search
// leaves as Interrupted, one during it ends the search with the best plan so far.
// ranks: each solves some of the levels and measures some of each round's plans; all find the plan that one process finds,
// time limits aside. They must see the folder, or Error{kUsage}, and an interrupt leaves as Interrupted.
TunedPlan tune(const Model& model, Device& device, const TuneText& text, const TuneOptions& options,
               Communicator& ranks = alone());

// The plan as a file that prune --plan reads, with the shape of each linear, so that another model's is refused; of units
// one that shrink --plan reads.
nlohmann::ordered_json plan_document(const TunedPlan& result);

}  // namespace swiftprune
