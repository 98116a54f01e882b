#include "swiftprune/text/text_file.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>
#include <memory>

#include "swiftprune/core/error.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/text/parse_text.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kGzip = "\x1F\x8B", kZstd = "\x28\xB5\x2F\xFD";
constexpr std::size_t kPieceBytes = std::size_t{1} << 16;

// Formats that are not text, by their first bytes.
struct Foreign {
  std::string_view start, what, hint;
};
constexpr std::array kForeign = {
    Foreign{"PAR1", "a parquet file", "write its text column as JSON Lines (pandas: to_json(lines=True))"},
    Foreign{"ARROW1", "an Arrow file", "write its text column as JSON Lines (datasets: to_json())"},
    Foreign{std::string_view("\xFF\xFE\0\0", 4), "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"},
    Foreign{"\xFF\xFE", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"},
    Foreign{"\xFE\xFF", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"},
    Foreign{"PK\x03\x04", "a zip archive", "unpack it first"},
    Foreign{"BZh", "a bzip2 file", "decompress it first: bunzip2"},
    Foreign{std::string_view("\xFD"
                             "7zXZ\0",
                             6),
            "an xz file", "decompress it first: unxz"},
    Foreign{"%PDF", "a PDF file", "extract its text first: pdftotext"},
    Foreign{"SQLite format 3", "a SQLite database", "write its text column as JSON Lines"},
};

// Text of other encodings and archives whose bytes may all be UTF-8: what gives them away is further in.
const Foreign* foreign_inside(std::string_view bytes) {
  static constexpr Foreign kTar{"ustar", "a tar archive", "unpack it first: tar -x"};
  static constexpr Foreign kWide{"",
                                 "zeros between the bytes of its characters, as UTF-16 and UTF-32 have them",
                                 "convert it: iconv -f UTF-16LE -t UTF-8 (or from UTF-16BE, UTF-32LE)"};
  constexpr std::size_t kTarMagic = 257, kLooked = 4096;
  if (bytes.substr(std::min(kTarMagic, bytes.size())).starts_with(kTar.start)) return &kTar;
  const std::string_view first = bytes.substr(0, kLooked);
  const auto zeros = std::ranges::count(first, '\0');
  // Some characters of such a text may lie beyond Latin-1.
  return zeros >= 2 && static_cast<std::size_t>(zeros) * 3 >= first.size() ? &kWide : nullptr;
}

[[noreturn]] void refuse_foreign(const Foreign& foreign, const std::string& file) {
  bad_input("{}: found {}, expected UTF-8 text, JSON or JSON Lines; {}", file, foreign.what, foreign.hint);
}

void append(std::string& text, const char* piece, std::size_t size, const std::string& file) {
  if (text.size() + size > kMaxTextBytes) {
    bad_input("{}: found more than {} bytes after decompression, expected at most so many; cut it into files",
              file, kMaxTextBytes);
  }
  text.append(piece, size);
}

std::string gunzip(std::string_view bytes, const std::string& file) {
  constexpr int kGzipWindow = 15 + 16;
  z_stream stream{};
  if (inflateInit2(&stream, kGzipWindow) != Z_OK) fail(ErrorKind::kFailure, "{}: zlib does not start", file);
  const std::unique_ptr<z_stream, int (*)(z_stream*)> owner(&stream, inflateEnd);
  std::string text, piece(kPieceBytes, '\0');
  bool ended = false;
  while (!bytes.empty() || stream.avail_in > 0) {
    if (stream.avail_in == 0) {
      const std::size_t size = std::min<std::size_t>(bytes.size(), std::numeric_limits<uInt>::max());
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
      stream.avail_in = static_cast<uInt>(size);
      bytes.remove_prefix(size);
    }
    if (ended) {  // a file may hold several members
      if (inflateReset(&stream) != Z_OK) bad_input("{}: the gzip data is broken", file);
      ended = false;
    }
    stream.next_out = reinterpret_cast<Bytef*>(piece.data());
    stream.avail_out = static_cast<uInt>(piece.size());
    const int status = inflate(&stream, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END) {
      bad_input("{}: the gzip data is broken after {} bytes of text", file, text.size());
    }
    append(text, piece.data(), piece.size() - stream.avail_out, file);
    ended = status == Z_STREAM_END;
  }
  // What is left of a member when the input has ended.
  while (!ended) {
    stream.next_out = reinterpret_cast<Bytef*>(piece.data());
    stream.avail_out = static_cast<uInt>(piece.size());
    const int status = inflate(&stream, Z_NO_FLUSH);
    append(text, piece.data(), piece.size() - stream.avail_out, file);
    ended = status == Z_STREAM_END;
    if (!ended && (status != Z_OK || stream.avail_out > 0)) bad_input("{}: the gzip data is cut short", file);
  }
  return text;
}

std::string unzstd(std::string_view bytes, const std::string& file) {
  const std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream(ZSTD_createDStream(),
                                                                             ZSTD_freeDStream);
  if (!stream) fail(ErrorKind::kFailure, "{}: zstd does not start", file);
  std::string text, piece(kPieceBytes, '\0');
  ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
  std::size_t status = 1;  // 0: a frame is complete
  bool full = false;
  while (input.pos < input.size || full) {
    ZSTD_outBuffer output{piece.data(), piece.size(), 0};
    status = ZSTD_decompressStream(stream.get(), &output, &input);
    if (ZSTD_isError(status) != 0) {
      bad_input("{}: the zstd data is broken: {}", file, ZSTD_getErrorName(status));
    }
    append(text, piece.data(), output.pos, file);
    full = output.pos == output.size && status != 0;
  }
  if (status != 0) bad_input("{}: the zstd data is cut short", file);
  return text;
}

}  // namespace

std::string lower_extension(const std::filesystem::path& file) {
  std::string extension = file.extension().string();
  std::ranges::transform(extension, extension.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

std::string text_file_bytes(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(std::filesystem::symlink_status(file, ignored))) {
    bad_input(
        "{}: no such file; expected one with text (.txt, .jsonl, .json, each also .gz or .zst), on this "
        "machine: data "
        "sets are not known by name, and nothing is downloaded",
        file.string());
  }
  return file_bytes(file);
}

TextFile read_text_file(const std::filesystem::path& file) {
  return parse_text_file(file, text_file_bytes(file));
}

TextFile parse_text_file(const std::filesystem::path& file, std::string bytes) {
  TextFile result{file, std::move(bytes)};
  const bool gzip = result.bytes.starts_with(kGzip), zstd = result.bytes.starts_with(kZstd);
  if (gzip || zstd) {
    result.bytes = gzip ? gunzip(result.bytes, file.string()) : unzstd(result.bytes, file.string());
    const std::string extension = lower_extension(file);
    if (extension == ".gz" || extension == ".zst") result.name.replace_extension();
  }
  for (const Foreign& foreign : kForeign) {
    if (result.bytes.starts_with(foreign.start)) refuse_foreign(foreign, file.string());
  }
  if (const Foreign* foreign = foreign_inside(result.bytes)) refuse_foreign(*foreign, file.string());
  if (result.bytes.starts_with(kByteOrderMark)) result.bytes.erase(0, kByteOrderMark.size());
  return result;
}

void check_utf8(std::string_view bytes, const std::string& file) {
  const auto position = text::invalid_utf8_position(bytes);
  if (!position) return;
  const auto line =
      1 + std::count(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(*position), '\n');
  bad_input("{}: found the byte 0x{:02x} at position {} (line {}), expected UTF-8", file,
            static_cast<unsigned char>(bytes[*position]), *position, line);
}

std::string read_utf8_file(const std::filesystem::path& file) {
  TextFile text = read_text_file(file);
  check_utf8(text.bytes, file.string());
  return std::move(text.bytes);
}

}  // namespace swiftprune
