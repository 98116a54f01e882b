#include "progress.h"

#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace swiftprune::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

TEST(Progress, JsonIsOneDocumentALine) {
  CaptureStderr();
  const ProgressFn progress = make_progress(ProgressStyle::kJson);
  progress("calibrate \"a\"", 1, 4);
  progress("calibrate \"a\"", 4, 4);
  progress("search", 7, 0);
  std::istringstream lines(GetCapturedStderr());
  std::vector<nlohmann::json> documents;
  for (std::string line; std::getline(lines, line);) documents.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(documents[0].at("stage"), "calibrate \"a\"");
  EXPECT_EQ(documents[0].at("total"), 4);
  EXPECT_FALSE(documents[0].contains("seconds_left"));
  EXPECT_FALSE(documents[1].contains("seconds_left"));
  EXPECT_FALSE(documents[2].contains("total"));
}

// A resumed run begins with blocks that took no time of its own, and its first news says nothing of the time.
TEST(Progress, TheTimeLeftIsThatOfWhatIsDoneHere) {
  CaptureStderr();
  const ProgressFn progress = make_progress(ProgressStyle::kJson);
  progress("prune", 20, 30);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  progress("prune", 21, 30);
  std::istringstream lines(GetCapturedStderr());
  std::vector<nlohmann::json> documents;
  for (std::string line; std::getline(lines, line);) documents.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_FALSE(documents[0].contains("seconds_left"));
  EXPECT_NEAR(documents[1].at("seconds_left").get<double>(), 9.0 * documents[1].at("seconds").get<double>(),
              1e-6);
}

// compare --equal-bytes prunes several times: the time that is left is of this time alone.
TEST(Progress, AStageThatBeginsAgainIsTimedAnew) {
  CaptureStderr();
  const ProgressFn progress = make_progress(ProgressStyle::kJson);
  progress("prune", 1, 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  progress("prune", 2, 2);
  progress("prune", 1, 100);
  std::istringstream lines(GetCapturedStderr());
  std::string last;
  for (std::string line; std::getline(lines, line);) last = line;
  const auto document = nlohmann::json::parse(last);
  EXPECT_EQ(document.at("total"), 100);
  EXPECT_LT(document.at("seconds").get<double>(), 0.3);
}

TEST(Progress, ABarIsTakenAwayAndOthersSayLittle) {
  CaptureStderr();
  {
    const ProgressFn progress = make_progress(ProgressStyle::kBar);
    progress("prune", 8, 30);
    clear_progress();
  }
  const std::string bar = GetCapturedStderr();
  EXPECT_THAT(bar, HasSubstr("prune:  27 % (8/30)"));
  EXPECT_TRUE(bar.ends_with("\r\033[K"));
  CaptureStderr();
  make_progress(ProgressStyle::kLines)("prune", 8, 30);  // short work says nothing
  make_progress(ProgressStyle::kNone)("prune", 8, 30);
  EXPECT_EQ(GetCapturedStderr(), "");
  EXPECT_EQ(progress_style("json"), ProgressStyle::kJson);
}

}  // namespace
}  // namespace swiftprune::cli
