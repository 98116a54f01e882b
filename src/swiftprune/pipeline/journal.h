// What a prune run has finished, kept beside its unfinished output, so that a killed run can go on at the
// last finished block: one JSON document a line, the first with what the run is, then one for each block.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <istream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/pipeline/drivers/prune.h"

namespace swiftprune {

class Journal {
 public:
  static constexpr const char* kFileName = "journal.jsonl";

  // Starts the journal of a new run. head: options, calibration, plan: whatever must be the same to go on.
  // sync: called before blocks are recorded, when their weights must be on the disk.
  Journal(const std::filesystem::path& folder, const nlohmann::ordered_json& head,
          std::function<void()> sync);
  // Continues the one in `folder`.
  Journal(const std::filesystem::path& folder, std::function<void()> sync);

  // Blocks are recorded together, at most every few seconds: a disk that syncs slowly must not slow down the
  // run.
  void add(FinishedBlock block);
  void flush();

 private:
  void append(const std::string& lines);
  std::ofstream file_;
  std::function<void()> sync_;
  std::vector<FinishedBlock> waiting_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// The journal of an unfinished run; nothing when there is none that can be read. A last line that was cut off
// in the middle does not count.
struct UnfinishedRun {
  nlohmann::ordered_json head;
  std::vector<FinishedBlock> blocks;
};
std::optional<UnfinishedRun> read_journal(const std::filesystem::path& folder);
// The same of its text, and the text of a run.
std::optional<UnfinishedRun> read_journal(std::istream& text);
std::string journal_text(const UnfinishedRun& run);

}  // namespace swiftprune
