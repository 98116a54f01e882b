#include "swiftprune/text/corpus.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::TempDir;
using test::write_text;
using Ids = std::vector<std::int32_t>;

class CorpusFile : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::string& bytes) {
    write_text(folder_.path() / name, bytes);
    return folder_.path() / name;
  }
  TempDir folder_;
};

TEST_F(CorpusFile, PlainTextIsOneDocument) {
  const Corpus corpus = read_corpus(write("a.txt", "\xEF\xBB\xBFone\n\n{\"text\": \"two\"}\r\n"));
  EXPECT_EQ(corpus.documents, std::vector<std::string>{"one\n\n{\"text\": \"two\"}\r\n"});
  EXPECT_NE(corpus.name.find("a.txt"), std::string::npos);
  EXPECT_EQ(read_corpus(write("empty.txt", "")).documents, std::vector<std::string>{""});
}

TEST_F(CorpusFile, JsonLines) {
  const auto file =
      write("a.jsonl", "{\"text\": \"one\\n\", \"n\": 1}\r\n\n  \n{\"n\": 2, \"text\": \"zw\xC3\xB6lf\"}");
  EXPECT_EQ(read_corpus(file).documents, (std::vector<std::string>{"one\n", "zw\xC3\xB6lf"}));
  const auto other = write("b.ndjson", "{\"body\": \"x\"}\n");
  EXPECT_EQ(read_corpus(other, "body").documents, std::vector<std::string>{"x"});
}

TEST_F(CorpusFile, ErrorsNameFileAndLine) {
  const auto expect_message = [&](const std::string& bytes, const std::string& message) {
    const auto file = write("bad.jsonl", bytes);
    expect_error(
        ErrorKind::kBadInput, [&] { read_corpus(file); }, "bad.jsonl", message);
  };
  expect_message("\n\n{\"text\": ", "line 3: not valid JSON");
  expect_message("{\"body\": \"b\", \"id\": 1}\n",
                 "line 1: the member \"text\" is missing; the line has: body, id");
  expect_message("{\"text\": 3}\n", "line 1: the member \"text\" is not a string");
  expect_message("[\"text\"]\n", "line 1: found no JSON object");
  expect_message("\n\n", "found no line");
  expect_message("", "found no line");
  expect_message("{\"text\": \"\xFF\"}\n", "line 1: not valid JSON");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(write("bad.txt", "ab\n\xC3(")); }, "position 3 (line 2)");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(folder_.path() / "gone.txt"); }, "gone.txt", "no such file");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(folder_.path()); }, "found a folder");
}

TEST_F(CorpusFile, OddLinesAreLeftOutAndCounted) {
  const std::string good = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
  for (const char* odd : {"{\"text\": ", "{\"body\": 1}", "{\"text\": null}", "[]", "{\"text\": \"\xFF\"}",
                          "{\"text\": 1, \"text\": 2}"}) {
    const Corpus corpus = read_corpus(write("odd.jsonl", good + odd + "\n"));
    EXPECT_EQ(corpus.documents, (std::vector<std::string>{"a", "b"})) << odd;
    ASSERT_EQ(corpus.notes.size(), 1u) << odd;
    EXPECT_NE(corpus.notes[0].find("left out 1 of 3 lines; the first: "), std::string::npos)
        << corpus.notes[0];
    EXPECT_NE(corpus.notes[0].find("odd.jsonl: line 3"), std::string::npos) << corpus.notes[0];
  }
  EXPECT_TRUE(read_corpus(write("good.jsonl", good)).notes.empty());
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(write("bad.jsonl", good + "1\n2\n3\n")); },
      "line 3: found no JSON object", "and 2 more such, against 2 documents");
}

TEST_F(CorpusFile, NumbersAndHalvesOfPairsThatJsonHasNotAreMended) {
  const Corpus corpus =
      read_corpus(write("nan.jsonl",
                        "{\"text\": \"NaN is a word\", \"score\": NaN, \"x\": [-Infinity, Infinity]}\n"
                        "{\"text\": \"half \\ud83d here, whole \\ud83d\\ude00, low \\ude00, \\\\ud83d\"}\n"));
  EXPECT_EQ(corpus.documents, (std::vector<std::string>{"NaN is a word",
                                                        "half \xEF\xBF\xBD here, whole \xF0\x9F\x98\x80, low "
                                                        "\xEF\xBF\xBD, \\ud83d"}));
  ASSERT_EQ(corpus.notes.size(), 1u);
  EXPECT_NE(corpus.notes[0].find("read 2 lines"), std::string::npos);
}

TEST_F(CorpusFile, JsonIsReadAsJson) {
  const std::vector<std::string> both = {"one", "two"};
  EXPECT_EQ(read_corpus(write("lines.json", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n")).documents, both);
  EXPECT_EQ(read_corpus(write("list.json", "[\n {\"text\": \"one\"},\n {\"text\": \"two\"}\n]")).documents,
            both);
  EXPECT_EQ(read_corpus(write("texts.json", "[\"one\", \"two\"]")).documents, both);
  EXPECT_EQ(read_corpus(write("inside.json", "{\"text\":\n [\"one\", \"two\"]}")).documents, both);
  EXPECT_EQ(read_corpus(write("one.json", "{\n \"text\": \"one\"\n}")).documents,
            std::vector<std::string>{"one"});
  EXPECT_EQ(read_corpus(write("one_line.json", "{\"text\": \"one\"}")).documents,
            std::vector<std::string>{"one"});
  EXPECT_EQ(read_corpus(write("nan.json", "[{\"text\": \"one\", \"x\": NaN}]")).documents,
            std::vector<std::string>{"one"});
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(write("other.json", "{\"data\":\n 1}")); }, "other.json",
      "the member \"text\" is missing; the line has: data");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(write("plain.json", "plain text")); }, "plain.json",
      "not valid JSON");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(write("empty.json", "[]")); }, "found an empty list");
}

// "hello\n" by gzip -n and by zstd.
const std::string kGzip(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\x00\x20\x30\x3a\x36\x06\x00\x00"
    "\x00",
    26);
const std::string kZstd("\x28\xb5\x2f\xfd\x20\x06\x31\x00\x00hello\n", 15);

TEST_F(CorpusFile, CompressedTextIsRead) {
  EXPECT_EQ(read_corpus(write("a.txt.gz", kGzip)).documents, std::vector<std::string>{"hello\n"});
  EXPECT_EQ(read_corpus(write("b", kGzip + kGzip)).documents, std::vector<std::string>{"hello\nhello\n"});
  EXPECT_EQ(read_corpus(write("a.txt.zst", kZstd)).documents, std::vector<std::string>{"hello\n"});
  EXPECT_EQ(read_corpus(write("b.zst", kZstd + kZstd)).documents, std::vector<std::string>{"hello\nhello\n"});
  for (const std::string& whole : {kGzip, kZstd}) {
    for (std::size_t size = 5; size < whole.size(); ++size) {
      const auto error = test::error_of([&] { read_corpus(write("cut", whole.substr(0, size))); });
      ASSERT_TRUE(error) << size;
      EXPECT_NE(std::string(error->what()).find("cut: the "), std::string::npos) << error->what();
    }
  }
  std::string bad = kGzip;
  bad[12] = 'x';
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(write("bad.gz", bad)); }, "bad.gz: the gzip data is");
}

TEST_F(CorpusFile, WhatIsNoTextIsNamed) {
  const auto expect_named = [&](const std::string& bytes, const std::string& what, const std::string& hint) {
    expect_error(
        ErrorKind::kBadInput, [&] { read_corpus(write("x", bytes)); }, "found " + what, hint);
  };
  expect_named("PAR1....", "a parquet file", "to_json");
  expect_named("\xFF\xFEh\x01", "UTF-16 text", "iconv");
  expect_named("PK\x03\x04", "a zip archive", "unpack");
  using namespace std::string_literals;
  expect_named("\xFF\xFE\0\0h\0\0\0"s, "UTF-32 text", "iconv");
  expect_named("h\0e\0l\0l\0o\0"s, "zeros between", "UTF-16LE");
  expect_named("\0h\0e\0l\0l\0o"s, "zeros between", "UTF-16BE");
  std::string tar(512, '\0');
  tar.replace(0, 5, "a.txt").replace(257, 5, "ustar");
  expect_named(tar + "text", "a tar archive", "unpack");
  expect_named("SQLite format 3\0"s, "a SQLite database", "JSON Lines");
  EXPECT_EQ(read_corpus(write("x", "one\0two\0three"s)).documents.front().size(), 13u);  // odd, but text
  expect_named("version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer", "git lfs pull");
}

TEST_F(CorpusFile, NamesCountHoweverTheyAreWritten) {
  EXPECT_EQ(read_corpus(write("A.JSONL", "{\"text\": \"one\"}")).documents, std::vector<std::string>{"one"});
  EXPECT_EQ(read_corpus(write("A.JSON", "[\"one\", \"two\"]")).documents,
            (std::vector<std::string>{"one", "two"}));
  for (const char* name : {"table.csv", "TABLE.TSV"}) {
    expect_error(
        ErrorKind::kBadInput, [&] { read_corpus(write(name, "text\nOnce")); }, "found a table", "to_json");
  }
}

TEST_F(CorpusFile, LinesOfJsonInAPlainTextAreSaid) {
  const Corpus lines = read_corpus(write("lines.txt", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n"));
  EXPECT_EQ(lines.documents.size(), 1u);
  ASSERT_EQ(lines.notes.size(), 1u);
  EXPECT_NE(lines.notes.front().find(".jsonl"), std::string::npos);
  for (const char* text : {"{braces} of prose", "[1]", "", "{\"unfinished\": "})
    EXPECT_TRUE(read_corpus(write("plain.txt", text)).notes.empty()) << text;
}

TEST_F(CorpusFile, TokenIds) {
  const auto u16 = write("a.u16", std::string("\x01\x00\xFF\xFF\x00\x01", 6));
  EXPECT_EQ(read_token_ids(u16, 65'536), (Ids{1, 65'535, 256}));
  const auto u32 = write("a.u32", std::string("\x01\x00\x00\x00\x00\x00\x02\x00", 8));
  EXPECT_EQ(read_token_ids(u32, 200'000), (Ids{1, 131'072}));
  EXPECT_EQ(read_token_ids(write("empty.u16", ""), 10), Ids{});
}

TEST_F(CorpusFile, BadTokenIds) {
  const auto u16 = write("a.u16", std::string("\x01\x00\xFF\xFF\x00\x01", 6));
  expect_error(ErrorKind::kBadInput, [&] { read_token_ids(u16, 65'535); },
               {"a.u16", "the id 65535 at position 1", "vocabulary of 65535"});
  expect_error(
      ErrorKind::kBadInput, [&] { read_token_ids(write("b.u16", "abc"), 65'536); }, "found 3 bytes",
      "multiple of 2");
  expect_error(
      ErrorKind::kBadInput, [&] { read_token_ids(write("b.u32", "abcdef"), 65'536); }, "multiple of 4");
  expect_error(
      ErrorKind::kBadInput, [&] { read_token_ids(write("b.bin", "abcd"), 9); }, ".bin", ".u16 or .u32");
  const auto high = write("c.u32", "\xFF\xFF\xFF\xFF");
  expect_error(
      ErrorKind::kBadInput, [&] { read_token_ids(high, 100); }, "the id 4294967295 at position 0");
}

TEST_F(CorpusFile, WrittenIdsAreReadBack) {
  const Ids ids = {0, 1, 65'535, 12};
  for (const char* name : {"w.u16", "w.u32"}) {
    write_token_ids(folder_.path() / name, ids);
    EXPECT_EQ(read_token_ids(folder_.path() / name, 65'536), ids);
  }
  expect_error(
      ErrorKind::kBadInput, [&] { write_token_ids(folder_.path() / "w.u16", {70'000}); }, "70000", ".u32");
  expect_error(
      ErrorKind::kBadInput, [&] { write_token_ids(folder_.path() / "w.u32", {-1}); }, "-1");
  expect_error(
      ErrorKind::kFailure, [&] { write_token_ids(folder_.path() / "no" / "w.u32", {1}); }, "writing failed");
}

}  // namespace
}  // namespace swiftprune
