// --resume of any run: what the unfinished one was, beside what this one is to be.
#pragma once

#include <cstddef>
#include <string>

#include <nlohmann/json.hpp>

namespace swiftprune {

// Throws Error{kUsage} with what the unfinished run had otherwise, in words. Both hold "version", "model", "calibration",
// "options", "plan", and "device", "compute" and "instruction_set".
[[noreturn]] void refuse_other_run(const std::string& out, const nlohmann::ordered_json& before,
                                   const nlohmann::ordered_json& now);
// What a person is told.
std::string no_unfinished_run(const std::string& out);
std::string going_on(std::size_t blocks);
std::string blocks_kept(std::size_t count);

}  // namespace swiftprune
