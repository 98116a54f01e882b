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
  expect_message("{\"text\": \"a\"}\n\n{\"text\": ", "line 3: not valid JSON");
  expect_message("{\"text\": \"a\"}\n{\"body\": \"b\", \"id\": 1}\n",
                 "line 2: the member \"text\" is missing; the line has: body, id");
  expect_message("{\"text\": 3}\n", "line 1: the member \"text\" is not a string");
  expect_message("[\"text\"]\n", "line 1: found no JSON object");
  expect_message("\n\n", "found no line");
  expect_message("", "found no line");
  expect_message("{\"text\": \"a\"}\n{\"text\": \"\xFF\"}\n",
                 "found the byte 0xff at position 24 (line 2), expected UTF-8");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(write("bad.txt", "ab\n\xC3(")); }, "position 3 (line 2)");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(folder_.path() / "gone.txt"); }, "gone.txt",
      "cannot be opened");
  expect_error(
      ErrorKind::kBadInput, [&] { read_corpus(folder_.path()); }, "cannot be opened");
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
