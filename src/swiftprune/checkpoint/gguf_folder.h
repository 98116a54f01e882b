// A GGUF file where a Hugging Face folder is expected: a folder of its own with config.json and the tokenizer's
// files, rebuilt from the file's metadata, and a link to the file, whose tensors Checkpoint reads where they lie. A few
// megabytes on the disk, whatever the size of the model.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "swiftprune/core/temporary_folder.h"

namespace swiftprune {

class GgufFolder {
 public:
  // Whether a model's name means such a file.
  static bool is_meant(const std::filesystem::path& name);

  // Makes the folder, called as the file without ".gguf", among the system's temporary ones ($TMPDIR); the
  // files have the GGUF's time. Throws Error{kBadInput} for the file, Error{kFailure} for the disk.
  explicit GgufFolder(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  // What was assumed, for the user; also that the tokenizer could not be rebuilt and why: there is none then.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  void fill(const std::filesystem::path& file);

  TemporaryFolder temporary_;
  std::filesystem::path path_;
  std::vector<std::string> notes_;
};

}  // namespace swiftprune
