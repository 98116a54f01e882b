#include "swiftprune/checkpoint/output_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

class OutputFileTest : public ::testing::Test {
 protected:
  fs::path path() const { return dir_.path() / "weights.bin"; }
  static std::string read(const OutputFile& file, std::uint64_t offset, std::size_t size) {
    std::string text(size, '?');
    EXPECT_TRUE(file.read_at(offset, std::as_writable_bytes(std::span(text))));
    return text;
  }
  test::TempDir dir_;
};

TEST_F(OutputFileTest, TakesPartsInAnyOrder) {
  OutputFile file(path());
  file.reserve(12);
  EXPECT_EQ(fs::file_size(path()), 12u);
  file.write_at(6, bytes_of("later"));
  file.write_at(0, bytes_of("first"));
  file.start_writing(0, 12);
  file.sync_data();
  sync_path(dir_.path());
  EXPECT_EQ(read(file, 0, 12), std::string("first\0later\0", 12));
  EXPECT_EQ(test::read_text(path()), std::string("first\0later\0", 12));
}

TEST_F(OutputFileTest, ThreadsWriteSideBySide) {
  constexpr std::size_t kPart = 100'000, kThreads = 4;
  OutputFile file(path());
  file.reserve(kPart * kThreads);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&file, t] {
      const std::string part(kPart, static_cast<char>('a' + t));
      for (std::size_t i = 0; i < kPart; i += 1000)
        file.write_at(t * kPart + i, bytes_of(std::string_view(part).substr(i, 1000)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::string expected;
  for (std::size_t t = 0; t < kThreads; ++t) expected += std::string(kPart, static_cast<char>('a' + t));
  EXPECT_EQ(test::read_text(path()), expected);
}

TEST_F(OutputFileTest, ReadsNothingBehindTheEnd) {
  OutputFile file(path());
  file.write_at(0, bytes_of("four"));
  std::string text(4, '?');
  EXPECT_TRUE(file.read_at(0, std::as_writable_bytes(std::span(text))));
  EXPECT_FALSE(file.read_at(1, std::as_writable_bytes(std::span(text))));
  EXPECT_FALSE(file.read_at(1000, std::as_writable_bytes(std::span(text))));
}

TEST_F(OutputFileTest, EmptiesOrKeepsWhatWasThere) {
  test::write_text(path(), "old content");
  { OutputFile kept(path(), true); }
  EXPECT_EQ(test::read_text(path()), "old content");
  { OutputFile emptied(path()); }
  EXPECT_EQ(test::read_text(path()), "");
  expect_error(
      ErrorKind::kFailure, [&] { OutputFile(dir_.path() / "missing", true); }, "missing");
}

TEST_F(OutputFileTest, OneHolderOfTheLock) {
  const OutputFile first(path());
  EXPECT_TRUE(first.lock());
  {
    const OutputFile second(path(), true);
    EXPECT_FALSE(second.lock());
  }
  EXPECT_TRUE(first.lock());  // the holder's own, still
}

TEST_F(OutputFileTest, AMovedFileStaysOpenUntilItsLastOwnerEnds) {
  {
    OutputFile first(path());
    ASSERT_TRUE(first.lock());
    const OutputFile second(std::move(first));
    second.write_at(0, bytes_of("kept"));
    EXPECT_FALSE(OutputFile(path(), true).lock());
  }
  EXPECT_TRUE(OutputFile(path(), true).lock());
  EXPECT_EQ(test::read_text(path()), "kept");
}

TEST_F(OutputFileTest, ErrorsNameThePath) {
  expect_error(
      ErrorKind::kFailure, [&] { OutputFile(dir_.path() / "none" / "file"); }, "none/file");
  expect_error(
      ErrorKind::kFailure, [&] { sync_path(dir_.path() / "none"); }, "none");
  const OutputFile full("/dev/full");
  expect_error(
      ErrorKind::kFailure, [&] { full.write_at(0, bytes_of("x")); }, "/dev/full", "the disk is full");
}

}  // namespace
}  // namespace swiftprune
