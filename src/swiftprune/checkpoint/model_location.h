// Where a model is, from what a person writes: a folder, a GGUF file, a folder of the Hugging Face cache, or a model's
// id ("HuggingFaceTB/SmolLM2-135M", with "@REVISION" if wanted) that the cache holds. Nothing is downloaded.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/gguf_folder.h"

namespace swiftprune {

// The hub's caches on this machine, first to last: $HF_HUB_CACHE, $HF_HOME/hub,
// $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub.
std::vector<std::filesystem::path> hub_caches();

struct LocatedModel {
  std::filesystem::path folder;            // to open
  std::shared_ptr<const GgufFolder> gguf;  // of a GGUF file: the folder is there as long as this lives
};

// A path that exists is taken as it is, but for a GGUF file and for the cache's own folder of a model
// ("models--ORG--NAME"), whose snapshot is meant. Throws Error{kBadInput}: an id that is in no cache (with the
// two ways to get it), a snapshot whose download is not complete, a path that is not there.
LocatedModel locate_model(const std::string& name);

// "ORG/NAME" of a folder of the cache (.../models--ORG--NAME/snapshots/COMMIT), else "".
std::string model_id(const std::filesystem::path& folder);

// What people call the model in this folder: the folder's own name, also for "." and "model/", but NAME of
// .../models--ORG--NAME/snapshots/COMMIT.
std::string model_name(const std::filesystem::path& folder);

}  // namespace swiftprune
