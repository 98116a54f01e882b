#include "swiftprune/api/resume.h"

#include <utility>

#include <fmt/format.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/record.h"

namespace swiftprune {
namespace {

// What an unfinished run had otherwise, in words.
std::string difference(const nlohmann::ordered_json& before, const nlohmann::ordered_json& now) {
  const auto differs = [&](const char* key) { return !before.contains(key) || before[key] != now[key]; };
  if (!before.is_object() || differs("version")) return "another version of swiftprune";
  if (differs("model")) return "another model";
  if (differs("calibration")) return "other calibration text";
  if (!before.contains("options") || !before["options"].is_object()) return "other options";
  const auto& options = before["options"];
  std::string names;
  for (const auto& [name, value] : now["options"].items()) {
    if (options.contains(name) && options[name] == value) continue;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name == "MODEL" ? name : "--" + name);
  }
  if (!names.empty()) return "other options: " + names;
  return differs("plan") ? "another plan" : "another device or precision";
}

}  // namespace

nlohmann::ordered_json run_identity(const nlohmann::ordered_json& byte_options, const Model& model,
                                    const Device& device, ComputeType compute, nlohmann::ordered_json plan,
                                    const std::string& calibration) {
  return {{"version", SWIFTPRUNE_VERSION},
          {"options", byte_options},
          {"plan", std::move(plan)},
          {"model", file_stamps(model.checkpoint())},
          {"calibration", calibration},
          {"device", device.name()},
          {"compute", compute == ComputeType::kBF16 ? "bf16" : "f32"},
          {"instruction_set", isa_name()}};
}

void refuse_other_run(const std::string& out, const nlohmann::ordered_json& before,
                      const nlohmann::ordered_json& now) {
  bad_usage(
      "--resume: the unfinished run for {} had {}; repeat its command, or leave --resume out to start again",
      out, difference(before, now));
}

std::string no_unfinished_run(const std::string& out) {
  return fmt::format("--resume: no unfinished run for {}; starting one", out);
}

std::string going_on(std::size_t blocks) {
  return fmt::format("--resume: going on behind {} finished blocks", blocks);
}

std::string blocks_kept(std::size_t count) {
  return fmt::format("{} finished block{} kept; the same command goes on with {}", count,
                     count == 1 ? " is" : "s are", count == 1 ? "it" : "them");
}

}  // namespace swiftprune
