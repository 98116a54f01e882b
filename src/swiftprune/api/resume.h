// --resume of any run: what the unfinished one was, beside what this one is to be.
#pragma once

#include <cstddef>
#include <string>

#include <nlohmann/json.hpp>

#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"

namespace swiftprune {

// Whatever changes a byte of the output: only a run of the same may go on. byte_options: of the command; plan: what was
// decided; calibration: hash of the token ids.
nlohmann::ordered_json run_identity(const nlohmann::ordered_json& byte_options, const Model& model,
                                    const Device& device, ComputeType compute, nlohmann::ordered_json plan,
                                    const std::string& calibration);
// Throws Error{kUsage} with what the unfinished run had otherwise, in words. Both are of run_identity().
[[noreturn]] void refuse_other_run(const std::string& out, const nlohmann::ordered_json& before,
                                   const nlohmann::ordered_json& now);
// What a person is told.
std::string no_unfinished_run(const std::string& out);
std::string going_on(std::size_t blocks);
std::string blocks_kept(std::size_t count);

}  // namespace swiftprune
