// An unfinished run of prune: whether it is the same one, and what of it is kept.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "swiftprune/api/prune_job.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/pipeline/journal.h"

namespace swiftprune {

// Nothing, with a note, when there is none. Throws Error{kUsage} naming what an unfinished run had otherwise.
std::optional<UnfinishedRun> find_unfinished(const std::string& out, const CheckpointWriter& writer,
                                             const nlohmann::ordered_json& identity, const NoteFn& note);
// Of the first rank, to all.
void share_unfinished(Communicator& ranks, std::optional<UnfinishedRun>& unfinished);
// A later run goes on with what an error or an interrupt leaves.
PruneResult keeping_blocks(Journal& journal, const CheckpointWriter& writer, bool resumable,
                           const std::function<PruneResult()>& prune);

}  // namespace swiftprune
