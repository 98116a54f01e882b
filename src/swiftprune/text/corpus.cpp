#include "swiftprune/text/corpus.h"

#include <algorithm>
#include <fstream>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/text/json_lines.h"
#include "swiftprune/text/parse_text.h"
#include "swiftprune/text/text_file.h"

namespace swiftprune {
namespace {

std::string member_names(const nlohmann::json& object) {
  std::vector<std::string_view> names;
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string json_document(const JsonLine& line, const std::string& field) {
  if (line.value.is_string()) return line.value.get<std::string>();
  if (!line.value.is_object())
    bad_input("{}: found no JSON object, expected one with the member \"{}\"", line.where, field);
  const auto member = line.value.find(field);
  if (member == line.value.end()) {
    bad_input("{}: the member \"{}\" is missing; the line has: {}", line.where, field,
              member_names(line.value));
  }
  if (!member->is_string()) bad_input("{}: the member \"{}\" is not a string", line.where, field);
  return member->get<std::string>();
}

// A .json file: lines, a list, or one object.
std::vector<JsonLine> json_parts(const std::string& bytes, const std::string& file, const std::string& field,
                                 OddParts& odd) {
  const std::size_t start = bytes.find_first_not_of(" \t\r\n");
  if (start == std::string::npos) bad_input("{}: found nothing, expected JSON", file);
  if (bytes[start] == '{') {
    OddParts first;
    const std::size_t end = std::min(bytes.find('\n', start), bytes.size());
    if (!parse_json_lines(std::string_view(bytes).substr(start, end - start), file, &first).empty() &&
        bytes.find_first_not_of(" \t\r\n", end) != std::string::npos) {
      return parse_json_lines(bytes, file, &odd);
    }
  }
  const JsonLimits limits{.max_bytes = kMaxTextBytes, .max_values = 200'000'000};
  const auto mended = mended_json(bytes);
  nlohmann::json document = parse_json(mended ? *mended : bytes, file, limits);
  if (mended) ++odd.num_mended;
  if (document.is_object() && document.contains(field) && document[field].is_array()) {
    document = nlohmann::json(std::move(document[field]));
  }
  std::vector<JsonLine> parts;
  if (!document.is_array()) {
    parts.push_back({file, std::move(document)});
    return parts;
  }
  if (document.empty()) bad_input("{}: found an empty list, expected documents", file);
  for (nlohmann::json& item : document)
    parts.push_back({fmt::format("{}: element {}", file, parts.size()), std::move(item)});
  return parts;
}

void add_notes(const OddParts& odd, Corpus& corpus) {
  if (odd.num_left_out >= std::ssize(corpus.documents)) {
    const auto others = corpus.documents.size();
    if (odd.num_left_out == 1 || others == 0) bad_input("{}", odd.first_left_out);
    bad_input("{} (and {} more such, against {} documents)", odd.first_left_out, odd.num_left_out - 1,
              others);
  }
  if (odd.num_left_out > 0) {
    corpus.notes.push_back(fmt::format("{}: left out {} of {} lines; the first: {}", corpus.name,
                                       odd.num_left_out, odd.num_left_out + std::ssize(corpus.documents),
                                       odd.first_left_out));
  }
  if (odd.num_mended > 0) {
    corpus.notes.push_back(fmt::format(
        "{}: read {} lines whose numbers (NaN, Infinity) or halves of surrogate pairs JSON does not "
        "have: as null and U+FFFD",
        corpus.name, odd.num_mended));
  }
}

std::size_t id_bytes(const std::filesystem::path& file) {
  if (file.extension() == ".u16") return 2;
  if (file.extension() == ".u32") return 4;
  bad_input("{}: found the extension \"{}\", expected .u16 or .u32 (little-endian token ids)", file.string(),
            file.extension().string());
}

// Of a plain text whose first line is an object as a line of JSON Lines.
bool looks_like_json_lines(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  if (line.size() > kMostBytes || line.find_first_not_of(" \t\r") == std::string_view::npos) return false;
  if (line[line.find_first_not_of(" \t\r")] != '{') return false;
  OddParts odd;
  const std::vector<JsonLine> found = parse_json_lines(line, "", &odd);
  return !found.empty() && found.front().value.is_object();
}

Corpus plain_corpus(TextFile text, Corpus corpus) {
  const std::string extension = lower_extension(text.name);
  if (extension == ".csv" || extension == ".tsv") {
    bad_input(
        "{}: found a table ({}), expected text, JSON or JSON Lines; write its text column as JSON Lines "
        "(pandas: to_json(orient=\"records\", lines=True)), or name it .txt if it is text",
        corpus.name, extension);
  }
  check_utf8(text.bytes, corpus.name);
  if (looks_like_json_lines(text.bytes)) {
    corpus.notes.push_back(fmt::format(
        "{}: read as plain text, braces and names included, though it begins with a JSON object; as .jsonl "
        "a member of each line would be read",
        corpus.name));
  }
  corpus.documents.push_back(std::move(text.bytes));
  return corpus;
}

}  // namespace

Corpus read_corpus(const std::filesystem::path& file, const std::string& field) {
  return parse_corpus(file, text_file_bytes(file), field);
}

Corpus parse_corpus(const std::filesystem::path& file, std::string bytes, const std::string& field) {
  Corpus corpus{file.string(), {}};
  TextFile text = parse_text_file(file, std::move(bytes));
  const bool lines = is_json_lines(text.name);
  if (!lines && lower_extension(text.name) != ".json")
    return plain_corpus(std::move(text), std::move(corpus));
  OddParts odd;
  for (const JsonLine& part : lines ? parse_json_lines(text.bytes, corpus.name, &odd)
                                    : json_parts(text.bytes, corpus.name, field, odd)) {
    try {
      corpus.documents.push_back(json_document(part, field));
    } catch (const Error& error) {
      odd.leave_out(error.what());
    }
  }
  add_notes(odd, corpus);
  return corpus;
}

std::vector<std::int32_t> read_token_ids(const std::filesystem::path& file, std::int64_t vocab_size) {
  const std::size_t size = id_bytes(file);
  const std::string bytes = text_file_bytes(file);
  if (bytes.size() % size != 0) {
    bad_input("{}: found {} bytes, expected a multiple of {}", file.string(), bytes.size(), size);
  }
  std::vector<std::int32_t> ids(bytes.size() / size);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::uint32_t id = 0;
    for (std::size_t b = 0; b < size; ++b) {
      id |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[size * i + b])) << (8 * b);
    }
    if (id >= vocab_size) {
      bad_input("{}: found the id {} at position {}, expected ids below the model's vocabulary of {}",
                file.string(), id, i, vocab_size);
    }
    ids[i] = static_cast<std::int32_t>(id);
  }
  return ids;
}

void write_token_ids(const std::filesystem::path& file, const std::vector<std::int32_t>& ids) {
  const std::size_t size = id_bytes(file);
  std::string bytes;
  bytes.reserve(size * ids.size());
  for (const std::int32_t id : ids) {
    if (id < 0 || (size == 2 && id > 0xFFFF)) {
      bad_input("{}: the id {} does not fit; use the extension .u32", file.string(), id);
    }
    for (std::size_t b = 0; b < size; ++b) {
      bytes += static_cast<char>((static_cast<std::uint32_t>(id) >> (8 * b)) & 0xFF);
    }
  }
  std::ofstream out(file, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) fail(ErrorKind::kFailure, "{}: writing failed", file.string());
}

}  // namespace swiftprune
