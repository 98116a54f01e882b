#include "swiftprune/text/sentencepiece_model.h"

#include <cstdint>

#include "swiftprune/core/error.h"
#include "swiftprune/text/precompiled_charsmap.h"

namespace swiftprune::text {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr std::uint64_t kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3;
constexpr std::uint64_t kModelType = 3, kTreatWhitespaceAsSuffix = 24;
constexpr std::uint64_t kPrecompiledCharsmap = 2, kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4,
                        kEscapeWhitespaces = 5;

// One field of a message: number, and varint value or bytes.
struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;
  std::string_view bytes;
};

class MessageReader {
 public:
  // base: position of the message in the file.
  MessageReader(std::string_view message, std::string_view file, std::size_t base)
      : rest_(message), file_(file), at_(base) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t tag = varint();
    field = {tag >> 3, 0, {}};
    switch (tag & 7) {
      case 0:
        field.value = varint();
        return true;
      case 1:
        field.bytes = take(8);
        return true;
      case 2:
        field.bytes = take(varint());
        return true;
      case 5:
        field.bytes = take(4);
        return true;
      default:
        bad_input("{}: found wire type {} at position {}, expected a SentencePiece model", file_, tag & 7,
                  at_);
    }
  }
  std::size_t position() const { return at_; }

 private:
  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) {
      bad_input(
          "{}: found a field of {} bytes at position {}, expected at most {}; the file is truncated or not a "
          "SentencePiece model",
          file_, size, at_, rest_.size());
    }
    const std::string_view bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    at_ += size;
    return bytes;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    bad_input("{}: found a number of over 64 bits at position {}", file_, at_);
  }
  std::string_view rest_, file_;
  std::size_t at_;
};

}  // namespace

SentencePieceSpec read_sentencepiece_spec(std::string_view model, std::string_view file) {
  SentencePieceSpec spec;
  std::int64_t pieces = 0;
  MessageReader reader(model, file, 0);
  for (Field field; reader.next(field);) {
    MessageReader inner(field.bytes, file, reader.position() - field.bytes.size());
    Field item;
    if (field.number == kPieces) {
      ++pieces;
      while (inner.next(item)) continue;
    } else if (field.number == kTrainerSpec) {
      while (inner.next(item)) {
        if (item.number == kModelType)
          spec.model_type = static_cast<SentencePieceSpec::ModelType>(item.value);
        if (item.number == kTreatWhitespaceAsSuffix) spec.treat_whitespace_as_suffix = item.value != 0;
      }
    } else if (field.number == kNormalizerSpec) {
      while (inner.next(item)) {
        if (item.number == kPrecompiledCharsmap) spec.precompiled_charsmap = item.bytes;
        if (item.number == kAddDummyPrefix) spec.add_dummy_prefix = item.value != 0;
        if (item.number == kRemoveExtraWhitespaces) spec.remove_extra_whitespaces = item.value != 0;
        if (item.number == kEscapeWhitespaces) spec.escape_whitespaces = item.value != 0;
      }
    }
  }
  if (pieces == 0) bad_input("{}: found no pieces, expected a SentencePiece model", file);
  if (!spec.precompiled_charsmap.empty()) {
    PrecompiledCharsmap(spec.precompiled_charsmap,
                        std::string(file) + ": normalizer_spec.precompiled_charsmap");
  }
  return spec;
}

std::string without_dummy_prefix(std::string_view model) {
  constexpr char kLengthDelimited = 2;
  std::string bytes(model);
  bytes += static_cast<char>(kNormalizerSpec << 3 | kLengthDelimited);
  bytes += '\2';
  bytes += static_cast<char>(kAddDummyPrefix << 3);
  bytes += '\0';
  return bytes;
}

}  // namespace swiftprune::text
