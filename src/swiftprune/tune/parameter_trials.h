// Trials of a method's parameters as they are run and kept: each by one rank, each in a journal, so that an interrupted
// search goes on behind them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/ranks/communicator.h"
#include "swiftprune/tune/method_parameters.h"

namespace swiftprune {

class ParameterTrials {
 public:
  // Takes up what a run of the same identity left in the folder; what another one left is none of ours.
  ParameterTrials(const std::filesystem::path& folder, const nlohmann::json& identity, Communicator& ranks);

  // As MeasureSetups: those that are not known yet by turns, one on each rank at a time. is_over: is there no time left
  // for one that takes so many seconds? It is asked before each turn but the very first.
  std::optional<std::vector<SetupMeasurement>> measure(
      std::span<const MethodSetup> setups,
      const std::function<SetupMeasurement(const MethodSetup&)>& measure_one,
      const std::function<bool(double seconds)>& is_over);

 private:
  void read();
  void keep(const std::string& setup, const SetupMeasurement& measured);
  void exchange(std::vector<SetupMeasurement>& measured) const;

  const std::filesystem::path file_;
  const nlohmann::json identity_;
  Communicator& ranks_;
  std::map<std::string, SetupMeasurement> known_;  // by describe()
  double last_seconds_ = 0.0;
};

nlohmann::ordered_json to_json(const ParameterSearch& search);
// Throws Error{kBadInput} naming `where`.
ParameterSearch read_parameters(const nlohmann::json& document, const std::string& where);

}  // namespace swiftprune
