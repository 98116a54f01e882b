#include "swiftprune/text/corpus.h"

#include <algorithm>
#include <fstream>

#include "swiftprune/core/error.h"
#include "swiftprune/text/json_field.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_json_lines(const std::filesystem::path& file) {
  return file.extension() == ".jsonl" || file.extension() == ".ndjson";
}

std::string json_document(std::string_view line, const std::string& where, const std::string& field) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    bad_input("{}: not valid JSON: {}", where, error.what());
  }
  if (!json.is_object())
    bad_input("{}: found no JSON object, expected one with the member \"{}\"", where, field);
  const auto member = json.find(field);
  if (member == json.end()) {
    std::vector<std::string_view> names;
    for (const auto& item : json.items()) names.push_back(item.key());
    bad_input("{}: the member \"{}\" is missing; the line has: {}", where, field, text::joined_types(names));
  }
  if (!member->is_string()) bad_input("{}: the member \"{}\" is not a string", where, field);
  return member->get<std::string>();
}

std::size_t id_bytes(const std::filesystem::path& file) {
  if (file.extension() == ".u16") return 2;
  if (file.extension() == ".u32") return 4;
  bad_input("{}: found the extension \"{}\", expected .u16 or .u32 (little-endian token ids)", file.string(),
            file.extension().string());
}

}  // namespace

Corpus read_corpus(const std::filesystem::path& file, const std::string& field) {
  Corpus corpus{file.string(), {}};
  std::string bytes = text::file_bytes(file);
  if (bytes.starts_with(kByteOrderMark)) bytes.erase(0, kByteOrderMark.size());
  if (const auto position = text::invalid_utf8_position(bytes)) {
    const auto line =
        1 + std::count(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(*position), '\n');
    bad_input("{}: found the byte 0x{:02x} at position {} (line {}), expected UTF-8", corpus.name,
              static_cast<unsigned char>(bytes[*position]), *position, line);
  }
  if (!is_json_lines(file)) {
    corpus.documents.push_back(std::move(bytes));
    return corpus;
  }
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = std::string_view(bytes).substr(begin, end - begin);
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      corpus.documents.push_back(json_document(line, fmt::format("{}: line {}", corpus.name, number), field));
    }
    begin = end + 1;
  }
  if (corpus.documents.empty()) bad_input("{}: found no line, expected one JSON object a line", corpus.name);
  return corpus;
}

std::vector<std::int32_t> read_token_ids(const std::filesystem::path& file, std::int64_t vocab_size) {
  const std::size_t size = id_bytes(file);
  const std::string bytes = text::file_bytes(file);
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
