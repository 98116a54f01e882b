// A folder that goes, with all that is in it, when its owner does.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

namespace swiftprune {

class TemporaryFolder {
 public:
  // This one, which somebody makes.
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;  // empty: somebody else's by now
};

// Makes swiftprune-<kind>-XXXXXX in parent; where that is empty among the system's temporary ones ($TMPDIR). Throws
// Error{kFailure}: "<parent>: the folder for <content> cannot be made (<reason>); <hint> names another place".
TemporaryFolder make_temporary_folder(std::string_view kind, std::string_view content,
                                      std::string_view hint = "TMPDIR",
                                      const std::filesystem::path& parent = {});

}  // namespace swiftprune
