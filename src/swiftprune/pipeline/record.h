// swiftprune.json, the record that stands beside a pruned checkpoint: everything that is needed to repeat the
// run.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/calibration/stopping.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/drivers/shrink.h"

namespace swiftprune {

struct CalibrationRecord {
  std::string source;  // file, "self" or "none"
  std::string ids;     // hash of the token ids, "" without calibration
  std::int64_t windows = 0;
  std::int64_t seqlen = 0;
  std::uint64_t seed = 0;
  std::optional<StableWindows> stopping = {};  // of --windows auto
  // Where texts have weights: what each gave.
  struct Text {
    std::string file;
    double weight = 1.0;
    std::int64_t windows = 0;
  };
  std::vector<Text> texts = {};
};

// Parts that every record of a run has: {"source", "ids", "windows", "seqlen", "seed", "texts", "stopping"}, {"cpu",
// "instruction_set", "threads"} of the calling thread, and what each stage of a shrink took.
nlohmann::ordered_json calibration_record(const CalibrationRecord& calibration);
nlohmann::ordered_json machine_record();
nlohmann::ordered_json seconds_record(const ShrinkSeconds& seconds);

// command: the options of the run, as given and with the defaults filled in. hashes: of model_hashes(), when
// the caller has them already (they take a while for a large model).
nlohmann::ordered_json make_record(const Model& model, const Plan& plan, const std::string& method,
                                   const PruneOptions& options, const CalibrationRecord& calibration,
                                   const std::optional<Allocation>& allocation, const PruneResult& result,
                                   const nlohmann::ordered_json& command,
                                   const nlohmann::ordered_json& hashes = nullptr);

// The names of config.json and of the weight files.
std::set<std::string> model_files(const Checkpoint& checkpoint);
// SHA-256 of each of the model's weight files and of config.json, by file name.
nlohmann::ordered_json model_hashes(const Checkpoint& checkpoint);

// Sizes and times of these files: what tells a model from a changed one without reading it whole.
nlohmann::ordered_json file_stamps(const Checkpoint& checkpoint);

// The swiftprune.json that stands beside the model already, or null: a model that is shrunk and then pruned
// keeps the records of all its steps, each as "previous" of the next.
nlohmann::ordered_json previous_record(const Checkpoint& checkpoint);

}  // namespace swiftprune
