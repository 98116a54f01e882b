// Is a pruned checkpoint what it claims to be? Compared with its dense parent, byte by byte, and with the
// record that the run left (swiftprune.json). One pass over both; memory stays at one tensor of each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/core/progress.h"

namespace swiftprune {

struct VerifyOptions {
  std::string pattern = "auto";    // of every pruned tensor; auto: what the record says of each
  bool weights_unchanged = false;  // test it although the record does not promise it
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};
};

struct VerifyCheck {
  enum class Outcome { kPassed, kFailed, kSkipped };
  std::string name;
  Outcome outcome = Outcome::kPassed;
  std::string detail;  // what was tested; of a failed check the first place where it fails
};
std::string_view name_of(VerifyCheck::Outcome outcome);

struct VerifyReport {
  std::filesystem::path dense, pruned;
  bool has_record = false;
  std::vector<VerifyCheck> checks;  // in the order of their weight
  std::int64_t num_tensors = 0;     // pruned ones
  std::int64_t num_weights = 0;     // of these
  std::int64_t num_zeros = 0;       // of these
  std::int64_t num_changed = 0;     // kept weights that are not the dense ones

  const VerifyCheck* first_failure() const;  // null when all hold
};

// Throws Error{kBadInput} when a folder or the record cannot be read, Error{kUsage} for an unknown pattern. A
// check that fails is no error: it stands in the report.
VerifyReport verify_pruned(const std::filesystem::path& dense, const std::filesystem::path& pruned,
                           const VerifyOptions& options);
nlohmann::ordered_json to_json(const VerifyReport& report);

}  // namespace swiftprune
