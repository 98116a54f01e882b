// Measurements by what was measured, kept in a file from one run to the next.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>

namespace swiftprune {

class Timings {
 public:
  using Entry = std::map<std::string, double>;  // by name, such as packed_us

  // An unreadable or damaged file counts as empty, an entry that is not numbers by names as missing; an empty
  // path keeps results in memory only.
  explicit Timings(std::filesystem::path file);
  // $XDG_CACHE_HOME/swiftprune/autotune.json, else ~/.cache/swiftprune/autotune.json; empty when neither is
  // set.
  static std::filesystem::path default_file();

  const Entry* find(const std::string& key) const;  // null: not measured
  void set(const std::string& key, Entry entry);
  // What the file held is not found any more, and stays in it until it is measured again.
  void measure_again() { only_new_ = true; }
  // Writes all entries (temporary file, rename). A folder that cannot be written is no error: it is a cache.
  void save() const;

 private:
  std::filesystem::path file_;
  std::map<std::string, Entry> entries_;
  std::set<std::string> new_;  // keys that were set by this run
  bool only_new_ = false;
};

}  // namespace swiftprune
