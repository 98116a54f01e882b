// Text files and corpora of bytes that are at hand, as read_text_file() and read_corpus() have them of files.
#pragma once

#include <filesystem>
#include <string>

#include "swiftprune/text/corpus.h"
#include "swiftprune/text/text_file.h"

namespace swiftprune {

// file: what the bytes are called, in messages and by its extension.
TextFile parse_text_file(const std::filesystem::path& file, std::string bytes);
Corpus parse_corpus(const std::filesystem::path& file, std::string bytes, const std::string& field = "text");

}  // namespace swiftprune
