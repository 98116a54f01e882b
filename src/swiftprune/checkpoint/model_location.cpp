#include "swiftprune/checkpoint/model_location.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string_view>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDefaultRevision = "main";

struct ModelId {
  std::string repository;  // "ORG/NAME", or "NAME" as old models have it
  std::string revision = std::string(kDefaultRevision);
};

bool is_name(std::string_view text) {
  return !text.empty() && text.front() != '.' && text.front() != '-' &&
         std::ranges::all_of(
             text, [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; });
}

// Nothing where the text cannot be an id, but only a path.
std::optional<ModelId> parse_id(const std::string& text) {
  ModelId id;
  id.repository = text.substr(0, text.find('@'));
  if (id.repository.size() < text.size()) id.revision = text.substr(id.repository.size() + 1);
  if (!is_name(id.revision)) return std::nullopt;
  const std::size_t slash = id.repository.find('/');
  const bool whole = slash == std::string::npos ? is_name(id.repository)
                                                : is_name(id.repository.substr(0, slash)) &&
                                                      is_name(id.repository.substr(slash + 1));
  return whole ? std::optional(id) : std::nullopt;
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

constexpr std::string_view kModelPrefix = "models--";

bool is_cached_model(const fs::path& folder) {
  return folder.filename().string().starts_with(kModelPrefix) && is_folder(folder / "snapshots");
}

// Of the cache's folder of one model; nothing when it has no such revision.
std::optional<fs::path> snapshot_of(const fs::path& repository, const std::string& revision) {
  std::string commit = revision;  // may be a commit itself
  if (std::ifstream ref(repository / "refs" / revision); ref) std::getline(ref, commit);
  if (!is_name(commit)) bad_input("{}: found no commit", (repository / "refs" / revision).string());
  const fs::path snapshot = repository / "snapshots" / commit;
  if (!is_folder(snapshot)) return std::nullopt;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(snapshot, ignored)) {
    if (!fs::exists(entry.path(), ignored)) {  // a link to a file that is not there
      bad_input("{}: the download is not complete; run it again", entry.path().string());
    }
  }
  return snapshot;
}

// "ORG/NAME" of ".../models--ORG--NAME".
std::string repository_of(const fs::path& folder) {
  std::string name = folder.filename().string().substr(kModelPrefix.size());
  if (const std::size_t dashes = name.find("--"); dashes != std::string::npos)
    name = fmt::format("{}/{}", name.substr(0, dashes), name.substr(dashes + 2));
  return name;
}

std::string ways_to_get(const ModelId& id) {
  const std::string download =
      fmt::format("hf download {}{}", id.repository,
                  id.revision == kDefaultRevision ? "" : fmt::format(" --revision {}", id.revision));
  return fmt::format("get it with `{}` and run this again, or with `{} --local-dir DIR` and give DIR",
                     download, download);
}

}  // namespace

std::vector<fs::path> hub_caches() {
  std::vector<fs::path> caches;
  const auto add = [&](const char* variable, const char* below) {
    const char* value = std::getenv(variable);
    if (value == nullptr || *value == '\0') return;
    const fs::path cache = fs::path(value) / below;
    if (std::ranges::find(caches, cache) == caches.end()) caches.push_back(cache);
  };
  add("HF_HUB_CACHE", "");
  add("HF_HOME", "hub");
  add("XDG_CACHE_HOME", "huggingface/hub");
  add("HOME", ".cache/huggingface/hub");
  return caches;
}

namespace {

// The id in a web address of the hub; other text as it is.
std::string without_address(const std::string& text) {
  for (const std::string_view start : {"https://huggingface.co/", "http://huggingface.co/", "huggingface.co/",
                                       "https://hf.co/", "hf.co/", "hf://"}) {
    if (!text.starts_with(start)) continue;
    std::string id = text.substr(start.size());
    if (const std::size_t tree = id.find("/tree/"); tree != std::string::npos)  // ORG/NAME/tree/REVISION
      id = fmt::format("{}@{}", id.substr(0, tree), id.substr(tree + std::string_view("/tree/").size()));
    while (id.ends_with('/')) id.pop_back();
    return id;
  }
  return text;
}

}  // namespace

LocatedModel locate_model(const std::string& name) {
  if (name.empty())
    bad_usage(
        "MODEL: found nothing, expected a folder, a .gguf file or the id of a model of Hugging Face's cache");
  if (GgufFolder::is_meant(name)) {
    auto made = std::make_shared<const GgufFolder>(name);
    return {made->path(), made};
  }
  fs::path path = name;
  if (!path.has_filename()) path = path.parent_path();  // "models--ORG--NAME/"
  std::error_code ignored;
  if (fs::exists(path, ignored)) {
    if (!is_cached_model(path)) return {name, nullptr};
    const auto snapshot = snapshot_of(path, std::string(kDefaultRevision));
    if (!snapshot)
      bad_input("{}: the cache has no snapshot of '{}'; {}", name, kDefaultRevision,
                ways_to_get({.repository = repository_of(path)}));
    return {*snapshot, nullptr};
  }
  const std::optional<ModelId> id = parse_id(without_address(name));
  if (!id) bad_input("{}: no such folder or file", name);
  std::string folder = fmt::format("{}{}", kModelPrefix, id->repository);
  if (const std::size_t slash = folder.find('/'); slash != std::string::npos)
    folder = fmt::format("{}--{}", folder.substr(0, slash), folder.substr(slash + 1));
  std::vector<std::string> looked_in;
  for (const fs::path& cache : hub_caches()) {
    looked_in.push_back(cache.string());
    if (!is_folder(cache / folder)) continue;
    if (auto snapshot = snapshot_of(cache / folder, id->revision)) return {*snapshot, nullptr};
    bad_input("{}: {} has the model, but no revision '{}'; {}", name, (cache / folder).string(), id->revision,
              ways_to_get(*id));
  }
  bad_input("{}: no such folder, and no model of that id in {}; {}", name,
            looked_in.empty() ? "a cache (neither HF_HOME nor HOME is set)"
                              : fmt::format("{}", fmt::join(looked_in, " or ")),
            ways_to_get(*id));
}

std::string model_id(const fs::path& folder) {
  fs::path path = fs::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  const fs::path repository = path.parent_path().parent_path();
  if (path.parent_path().filename() != "snapshots" || !is_cached_model(repository)) return "";
  return repository_of(repository);
}

std::string model_name(const fs::path& folder) {
  if (const std::string id = model_id(folder); !id.empty())
    return id.substr(id.find('/') + 1);  // all of it where there is no organisation
  fs::path path = fs::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

}  // namespace swiftprune
