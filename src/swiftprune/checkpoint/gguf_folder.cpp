#include "swiftprune/checkpoint/gguf_folder.h"

#include <fmt/format.h>

#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kExtension = ".gguf";

}  // namespace

bool GgufFolder::is_meant(const fs::path& name) {
  std::error_code ignored;
  return name.extension() == kExtension && fs::is_regular_file(name, ignored);
}

GgufFolder::GgufFolder(const fs::path& file)
    : temporary_(
          make_temporary_folder("gguf", fmt::format("config.json and the tokenizer of {}", file.string()))),
      path_(temporary_.path() / file.stem()) {
  fill(file);
}

void GgufFolder::fill(const fs::path& file) {
  const GgufModel model = GgufModel::open(file);
  fs::create_directory(path_);
  for (const fs::path& part : gguf_parts(file))
    fs::create_symlink(fs::absolute(part), path_ / part.filename());
  // What names the input's files by size and time, as --resume does, finds the same at the next run.
  const auto time = fs::last_write_time(file);
  const auto write = [&](const char* name, const std::string& text) {
    write_whole(path_ / name, text);
    fs::last_write_time(path_ / name, time);
  };
  write("config.json", model.config().dump(2) + "\n");
  write("generation_config.json", model.generation_config().dump(2) + "\n");
  try {
    const TokenizerFiles tokenizer = model.tokenizer_files();
    for (const auto& [name, text] : tokenizer.named()) write(name, text);
    notes_ = tokenizer.notes;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBadInput) throw;
    notes_.push_back(fmt::format("without a tokenizer: {}", error.what()));
  }
}

}  // namespace swiftprune
