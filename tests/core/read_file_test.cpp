// Whole files, whatever their size is and whether it is known before.
#include "swiftprune/core/read_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_dir.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(ReadFileTest, EverySize) {
  const test::TempDir folder;
  for (const std::size_t size : {0, 1, 4095, 4096, 4097, 8192, 12'288, 100'001}) {
    std::string content(size, '\0');
    for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 7 + i / 256);
    test::write_text(folder.path() / "f", content);
    EXPECT_EQ(file_bytes(folder.path() / "f"), content) << size;
  }
}

TEST(ReadFileTest, AFileThatTellsNoSize) { EXPECT_FALSE(file_bytes("/proc/self/status").empty()); }

TEST(ReadFileTest, WhatIsNoFileIsNamed) {
  const test::TempDir folder;
  EXPECT_THAT([&] { file_bytes(folder.path()); }, ThrowsMessage<Error>(HasSubstr("found a folder")));
  EXPECT_THAT([&] { file_bytes(folder.path() / "none"); },
              ThrowsMessage<Error>(HasSubstr("none: cannot be read: No such file")));
}

}  // namespace
}  // namespace swiftprune
