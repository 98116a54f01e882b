// README.md of the folders that are written: what the Hub shows of a model. Its front matter names the dense model with
// its licence, the text says what was done to it and how to run it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace swiftprune {

inline constexpr const char* kModelCardFile = "README.md";
// The dense model's own, which stays beside it.
inline constexpr const char* kBaseCardFile = "BASE_MODEL_CARD.md";

class CheckpointWriter;
class Checkpoint;

// The swiftprune.json of the folder, null where there is none.
nlohmann::ordered_json record_beside(const Checkpoint& source);

// Writes both. source: what was pruned, shrunk or packed; record: swiftprune.json of the new folder, null where there is
// none; packed: only swiftprune runs it. Before CheckpointWriter::copy_other_files().
void write_model_card(const Checkpoint& source, const nlohmann::ordered_json& record, bool packed,
                      CheckpointWriter& writer);

// Puts what was measured, in Markdown, in the place of "not measured" in a folder's card; none: nothing happens.
void add_measured_quality(const std::filesystem::path& folder, std::string_view text);

}  // namespace swiftprune
