// Reads vocab.json and merges.txt, the files of byte-level BPE before tokenizer.json (OPT, GPT-NeoX, Qwen):
// the ranks and ids are in them, how text is cut and framed is the tokenizer's class, which other files name.
#pragma once

#include <filesystem>
#include <memory>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune::text {

// Whether the folder has both files.
bool has_vocab_and_merges(const std::filesystem::path& folder);
// Throws Error{kBadInput} that names the class when it is not known here.
std::unique_ptr<Tokenizer> open_vocab_and_merges(const std::filesystem::path& folder);

}  // namespace swiftprune::text
