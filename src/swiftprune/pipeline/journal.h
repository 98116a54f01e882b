// What a run has finished, kept beside its unfinished output, so that a killed run can go on at the last finished block:
// one JSON document a line, the first with what the run is, then one for each block.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
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
  // sync: called before blocks are recorded, when their weights must be on the disk. on_disk: how many of them other
  // writers have there (PeerJournal); later ones are not recorded yet.
  JournalLines(const std::filesystem::path& folder, const nlohmann::ordered_json& head,
               std::function<void()> sync, std::function<std::int64_t()> on_disk = {});
  // Continues the one in `folder`.
  JournalLines(const std::filesystem::path& folder, std::function<void()> sync,
               std::function<std::int64_t()> on_disk = {});

  // Lines are recorded together, at most every few seconds: a disk that syncs slowly must not slow down the run.
  void add(const nlohmann::ordered_json& line);
  void flush();

 private:
  void append(const std::string& lines);
  std::ofstream file_;
  std::function<void()> sync_;
  std::function<std::int64_t()> on_disk_;
  std::deque<std::string> waiting_;
  std::int64_t num_recorded_ = 0;  // by this run
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Beside the journal, of a process that writes a share of the output: how many blocks of this run have theirs on the disk.
class PeerJournal {
 public:
  PeerJournal(const std::filesystem::path& folder, int rank, std::function<void()> sync);
  void add();
  // What the writers of ranks 1 to size - 1 have there, all of them.
  static std::int64_t on_disk(const std::filesystem::path& folder, int size);
  // What a run of several ranks left.
  static void remove_all(const std::filesystem::path& folder);

 private:
  void check() const;
  std::filesystem::path path_;
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
