#include "swiftprune/api/prune_resume.h"

#include <filesystem>
#include <sstream>

#include <fmt/format.h>

#include "swiftprune/api/resume.h"
#include "swiftprune/core/error.h"

namespace swiftprune {

std::optional<UnfinishedRun> find_unfinished(const std::string& out, const CheckpointWriter& writer,
                                             const nlohmann::ordered_json& identity, const NoteFn& note) {
  auto unfinished = writer.continues() ? read_journal(writer.temporary_folder()) : std::nullopt;
  if (!unfinished) {
    note(no_unfinished_run(out));
    return std::nullopt;
  }
  const nlohmann::ordered_json& head = unfinished->head;
  const bool whole = head.is_object() && head.contains("identity") && head.contains("plan");
  if (!whole || head["identity"] != identity) {
    refuse_other_run(out, whole ? head["identity"] : nlohmann::ordered_json(), identity);
  }
  note(going_on(unfinished->blocks.size()));
  return unfinished;
}

void share_unfinished(Communicator& ranks, std::optional<UnfinishedRun>& unfinished) {
  if (ranks.size() == 1) return;
  std::string text = unfinished ? journal_text(*unfinished) : std::string();
  broadcast_text(ranks, 0, text);
  std::istringstream lines(text);
  if (!ranks.is_first()) unfinished = read_journal(lines);
}

PruneResult keeping_blocks(Journal& journal, const CheckpointWriter& writer, bool resumable,
                           const std::function<PruneResult()>& prune) {
  try {
    return prune();
  } catch (const Error& error) {
    if (!resumable) throw;
    journal.flush();
    const auto unfinished = read_journal(writer.temporary_folder());
    if (!unfinished || unfinished->blocks.empty() || error.kind() == ErrorKind::kInterrupted) throw;
    throw Error(error.kind(), fmt::format("{}; {}", error.what(), blocks_kept(unfinished->blocks.size())));
  }
}

std::string kept_blocks(const PruneJob& job) {
  const std::filesystem::path folder = partial_folder(job.out);
  std::error_code error;
  const auto unfinished = std::filesystem::exists(folder, error) ? read_journal(folder) : std::nullopt;
  return unfinished && !unfinished->blocks.empty() ? blocks_kept(unfinished->blocks.size()) : std::string();
}

}  // namespace swiftprune
