// Text for calibration and evaluation, from files: plain text (one document a file), JSON Lines (one a line)
// or JSON (one an element of a list); each may be compressed (text_file.h).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace swiftprune {

struct Corpus {
  std::string name;  // for messages: the file
  std::vector<std::string> documents;
  std::vector<std::string> notes = {};  // what was left out or mended, for the user
};

// file: .jsonl or .ndjson: one JSON object a line, whose member `field` is the document; .json: such lines, a
// list of such objects or of strings, or one object whose member is the document or a list of documents; any
// other name: the whole file is one document, well-formed UTF-8. Lines and elements that are not so are left
// out and counted (notes) while they are fewer than the others. Errors (Error{kBadInput}) name file and line.
Corpus read_corpus(const std::filesystem::path& file, const std::string& field = "text");

// Token ids of a file made elsewhere: .u16 or .u32, little endian, no header. An id that is not below
// vocab_size: Error{kBadInput} with its position.
std::vector<std::int32_t> read_token_ids(const std::filesystem::path& file, std::int64_t vocab_size);
// The same format, chosen by the file's extension; ids above 65535 do not fit .u16 (Error{kBadInput}).
void write_token_ids(const std::filesystem::path& file, const std::vector<std::int32_t>& ids);

}  // namespace swiftprune
