#include "swiftprune/core/temporary_folder.h"

#include <fstream>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using ::testing::StartsWith;

TEST(TemporaryFolder, IsNewAndGoesWithAllThatIsInIt) {
  fs::path path;
  {
    const TemporaryFolder folder = make_temporary_folder("test", "a test");
    const TemporaryFolder other = make_temporary_folder("test", "a test");
    path = folder.path();
    EXPECT_NE(path, other.path());
    EXPECT_TRUE(fs::is_empty(path));
    EXPECT_THAT(path.filename().string(), StartsWith("swiftprune-test-"));
    fs::create_directories(path / "a/b");
    std::ofstream(path / "a/b/c") << "x";
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TemporaryFolder, BelongsToWhoHasItLast) {
  std::optional<TemporaryFolder> last;
  {
    TemporaryFolder first = make_temporary_folder("test", "a test");
    last.emplace(std::move(first));
  }
  const fs::path path = last->path();
  EXPECT_TRUE(fs::exists(path));
  last.reset();
  EXPECT_FALSE(fs::exists(path));
}

TEST(TemporaryFolder, SaysWhereItCannotBeMade) {
  test::expect_error(
      ErrorKind::kFailure, [] { make_temporary_folder("test", "the trials", "--work", "/nowhere/at/all"); },
      "/nowhere/at/all: the folder for the trials cannot be made (No such file or directory); --work names "
      "another place");
}

}  // namespace
}  // namespace swiftprune
