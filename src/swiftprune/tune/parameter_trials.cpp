#include "swiftprune/tune/parameter_trials.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"

namespace swiftprune {
namespace {

nlohmann::ordered_json to_json(const SetupMeasurement& measured) {
  return {{"search_kl", measured.search_kl}, {"check_kl", measured.check_kl}, {"seconds", measured.seconds}};
}

SetupMeasurement read_measurement(const nlohmann::json& item) {
  return {item.at("search_kl").get<std::vector<double>>(), item.at("check_kl").get<double>(),
          item.at("seconds").get<double>()};
}

}  // namespace

ParameterTrials::ParameterTrials(const std::filesystem::path& folder, const nlohmann::json& identity,
                                 Communicator& ranks)
    : file_(folder / "parameters.jsonl"), identity_(identity), ranks_(ranks) {
  read();
}

// As the first rank finds it; a line that was cut off in the middle does not count, nor what follows it.
void ParameterTrials::read() {
  std::string lines;
  if (ranks_.is_first() && std::filesystem::exists(file_)) lines = file_bytes(file_);
  broadcast_text(ranks_, 0, lines);
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) {
    const nlohmann::json item = nlohmann::json::parse(line, nullptr, false);
    try {
      if (item.at("identity") == identity_) known_[item.at("setup")] = read_measurement(item);
    } catch (const nlohmann::json::exception&) {
      break;
    }
  }
}

void ParameterTrials::keep(const std::string& setup, const SetupMeasurement& measured) {
  known_[setup] = measured;
  if (!ranks_.is_first()) return;
  nlohmann::ordered_json item = {{"identity", identity_}, {"setup", setup}};
  item.update(to_json(measured));
  std::ofstream out(file_, std::ios::app);
  out << item.dump() + "\n";
  out.close();
  if (!out) fail(ErrorKind::kFailure, "{}: cannot be written", file_.string());
}

// Rank r has the r-th.
void ParameterTrials::exchange(std::vector<SetupMeasurement>& measured) const {
  if (ranks_.size() == 1) return;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    std::string text = to_json(measured[i]).dump();
    broadcast_text(ranks_, static_cast<int>(i), text);
    measured[i] = read_measurement(nlohmann::json::parse(text));
  }
}

std::optional<std::vector<SetupMeasurement>> ParameterTrials::measure(
    std::span<const MethodSetup> setups,
    const std::function<SetupMeasurement(const MethodSetup&)>& measure_one,
    const std::function<bool(double seconds)>& is_over) {
  std::vector<const MethodSetup*> unknown;
  for (const MethodSetup& setup : setups) {
    if (!known_.contains(describe(setup))) unknown.push_back(&setup);
  }
  const auto size = static_cast<std::size_t>(ranks_.size());
  for (std::size_t first = 0; first < unknown.size(); first += size) {
    if (!known_.empty() && is_over(last_seconds_)) return std::nullopt;
    std::vector<SetupMeasurement> turn(std::min(size, unknown.size() - first));
    const auto own = static_cast<std::size_t>(ranks_.rank());
    if (own < turn.size()) turn[own] = measure_one(*unknown[first + own]);
    exchange(turn);
    last_seconds_ = 0.0;
    for (std::size_t i = 0; i < turn.size(); ++i) {
      keep(describe(*unknown[first + i]), turn[i]);
      last_seconds_ = std::max(last_seconds_, turn[i].seconds);
    }
  }
  std::vector<SetupMeasurement> result;
  for (const MethodSetup& setup : setups) result.push_back(known_.at(describe(setup)));
  return result;
}

nlohmann::ordered_json to_json(const ParameterSearch& search) {
  nlohmann::ordered_json found = nlohmann::ordered_json::object();
  for (const auto& [name, value] : search.found) found[name] = value;
  nlohmann::ordered_json trials = nlohmann::ordered_json::array();
  for (const ParameterTrial& trial : search.trials) {
    nlohmann::ordered_json item = {{"parameter", nullptr}, {"value", nullptr}};
    if (!trial.parameter.empty()) item = {{"parameter", trial.parameter}, {"value", trial.value}};
    item.update({{"search_kl", trial.search_kl},
                 {"check_kl", trial.check_kl},
                 {"difference", trial.difference},
                 {"noise", trial.noise},
                 {"taken", trial.taken},
                 {"seconds", trial.seconds}});
    trials.push_back(std::move(item));
  }
  return {{"found", std::move(found)}, {"trials", std::move(trials)}, {"whole", search.whole}};
}

ParameterSearch read_parameters(const nlohmann::json& document, const std::string& where) {
  const JsonField root(document, where, "parameters");
  ParameterSearch search;
  if (!root.at("found").json().is_object()) root.at("found").unexpected("an object");
  for (const auto& [name, value] : root.at("found").json().items())
    search.found.emplace_back(name, root.at("found").at(name).number());
  for (const JsonField& item : root.at("trials").items()) {
    ParameterTrial trial;
    trial.parameter = item.string_if("parameter").value_or("");
    if (!trial.parameter.empty()) trial.value = item.at("value").number();
    trial.search_kl = item.at("search_kl").number();
    trial.check_kl = item.at("check_kl").number();
    trial.difference = item.at("difference").number();
    trial.noise = item.at("noise").number();
    trial.taken = item.at("taken").boolean();
    trial.seconds = item.at("seconds").number();
    search.trials.push_back(std::move(trial));
  }
  search.whole = root.at("whole").boolean();
  return search;
}

}  // namespace swiftprune
