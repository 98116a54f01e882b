#include "swiftprune/sparse/timings.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace swiftprune {
namespace fs = std::filesystem;

Timings::Timings(fs::path file) : file_(std::move(file)) {
  std::ifstream input(file_);
  if (!input) return;
  const nlohmann::json document = nlohmann::json::parse(input, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) return;
  for (const auto& [key, fields] : document.items()) {
    if (!fields.is_object()) continue;
    Entry entry;
    for (const auto& [name, value] : fields.items()) {
      if (value.is_number()) entry[name] = value.get<double>();
    }
    if (entry.size() == fields.size()) entries_[key] = std::move(entry);
  }
}

fs::path Timings::default_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder;
  if (cache != nullptr && *cache != '\0') {
    folder = cache;
  } else if (home != nullptr && *home != '\0') {
    folder = fs::path(home) / ".cache";
  } else {
    return {};
  }
  return folder / "swiftprune" / "autotune.json";
}

const Timings::Entry* Timings::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() || (only_new_ && !new_.contains(key)) ? nullptr : &found->second;
}

void Timings::set(const std::string& key, Entry entry) {
  entries_[key] = std::move(entry);
  new_.insert(key);
}

void Timings::save() const {
  if (file_.empty()) return;
  const nlohmann::json document = entries_;
  std::error_code ignored;
  fs::create_directories(file_.parent_path(), ignored);
  fs::path temporary = file_;
  temporary += fmt::format(".{}", ::getpid());
  {
    std::ofstream output(temporary);
    output << document.dump(2) << "\n";
    output.close();
    if (!output) {
      fs::remove(temporary, ignored);
      return;
    }
  }
  fs::rename(temporary, file_, ignored);
}

}  // namespace swiftprune
