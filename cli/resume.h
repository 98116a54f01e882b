// --resume: what an unfinished run was, beside what this one is to be.
#pragma once

#include <cstddef>
#include <string>

#include <nlohmann/json.hpp>

#include "command.h"

namespace swiftprune::cli {

// Throws Error{kUsage} with what the unfinished run had otherwise, in words. Both hold "version", "model", "calibration",
// "options", "plan", and "device", "compute" and "instruction_set".
[[noreturn]] void refuse_other_run(const std::string& out, const nlohmann::ordered_json& before,
                                   const nlohmann::ordered_json& now);
void note_no_unfinished(const CommonOptions& common, const std::string& out);
void note_going_on(const CommonOptions& common, std::size_t blocks);
// "3 finished blocks are kept; ..."
std::string blocks_kept(std::size_t count);

}  // namespace swiftprune::cli
