#include "swiftprune/text/corpus.h"

#include <fstream>

#include "swiftprune/core/error.h"
#include "swiftprune/text/json_field.h"
#include "swiftprune/text/json_lines.h"

namespace swiftprune {
namespace {

std::string json_document(const JsonLine& line, const std::string& field) {
  if (!line.value.is_object())
    bad_input("{}: found no JSON object, expected one with the member \"{}\"", line.where, field);
  const auto member = line.value.find(field);
  if (member == line.value.end()) {
    std::vector<std::string_view> names;
    for (const auto& item : line.value.items()) names.push_back(item.key());
    bad_input("{}: the member \"{}\" is missing; the line has: {}", line.where, field,
              text::joined_types(names));
  }
  if (!member->is_string()) bad_input("{}: the member \"{}\" is not a string", line.where, field);
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
  if (!is_json_lines(file)) {
    corpus.documents.push_back(read_utf8_file(file));
    return corpus;
  }
  for (const JsonLine& line : read_json_lines(file)) corpus.documents.push_back(json_document(line, field));
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
