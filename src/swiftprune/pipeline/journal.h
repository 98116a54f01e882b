// What a run has finished, kept beside its unfinished output, so that a killed run can go on at the last finished block:
// one JSON document a line, the first with what the run is, then one for each block.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <istream>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/pipeline/drivers/prune.h"

namespace swiftprune {

// Of any run.
class JournalLines {
 public:
  static constexpr const char* kFileName = "journal.jsonl";

  // Starts the journal of a new run. head: options, calibration, plan: whatever must be the same to go on.
  // sync: called before blocks are recorded, when their weights must be on the disk.
  JournalLines(const std::filesystem::path& folder, const nlohmann::ordered_json& head,
               std::function<void()> sync);
  // Continues the one in `folder`.
  JournalLines(const std::filesystem::path& folder, std::function<void()> sync);

  // Lines are recorded together, at most every few seconds: a disk that syncs slowly must not slow down the run.
  void add(const nlohmann::ordered_json& line);
  void flush();

 private:
  void append(const std::string& lines);
  std::ofstream file_;
  std::function<void()> sync_;
  std::string waiting_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Of prune.
class Journal : private JournalLines {
 public:
  using JournalLines::flush;
  using JournalLines::JournalLines;
  using JournalLines::kFileName;
  void add(const FinishedBlock& block);
};

// take() of each line but the first, which is returned, until one cannot be read or take() says false; nothing when there
// is no first. A last line that was cut off in the middle does not count.
std::optional<nlohmann::ordered_json> read_journal_lines(
    std::istream& text, const std::function<bool(const nlohmann::ordered_json& line)>& take);

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
