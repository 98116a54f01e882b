#include "swiftprune/core/child_process.h"

#include <chrono>
#include <csignal>
#include <fstream>
#include <stop_token>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/run_context.h"

namespace swiftprune {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;

class ChildProcess : public ::testing::Test {
 protected:
  int run(const std::string& script) {
    return run_child({"sh", "-c", script}, errors(),
                     [this](std::string_view line) { lines_.emplace_back(line); });
  }
  std::filesystem::path errors() const { return folder_.path() / "errors"; }

  test::TempDir folder_;
  std::vector<std::string> lines_;
};

TEST_F(ChildProcess, GivesLinesTheExitCodeAndTheEndOfItsErrors) {
  EXPECT_EQ(run("echo one; echo; printf last; echo bad >&2; echo worse >&2; exit 7"), 7);
  EXPECT_THAT(lines_, ElementsAre("one", "", "last"));
  EXPECT_EQ(end_of_file(errors(), 1000), "bad\nworse");
  EXPECT_EQ(end_of_file(errors(), 8), "worse");
  EXPECT_EQ(end_of_file(folder_.path() / "none", 8), "");
}

TEST_F(ChildProcess, TellsTheSignalThatEndedIt) { EXPECT_EQ(run("kill -9 $$"), 128 + SIGKILL); }

TEST_F(ChildProcess, CutsAnEndlessLine) {
  EXPECT_EQ(run("head -c 3000000 /dev/zero | tr '\\0' x"), 0);
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_.front().size(), std::size_t{1} << 20);
}

TEST_F(ChildProcess, NamesAProgramThatIsNotThere) {
  test::expect_error(
      ErrorKind::kFailure, [&] { run_child({"/no/such/program"}, errors(), [](std::string_view) {}); },
      "/no/such/program: cannot be started");
}

// Its own child would go on for a minute.
TEST_F(ChildProcess, EndsWithTheRunAndTakesItsChildrenAlong) {
  std::stop_source stop;
  const RunScope job({.stop = stop.get_token()});
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THROW(run_child({"sh", "-c", "sleep 60 & echo $!; wait"}, errors(),
                         [&](std::string_view line) {
                           lines_.emplace_back(line);
                           stop.request_stop();
                         }),
               Interrupted);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  ASSERT_EQ(lines_.size(), 1u);
  const pid_t grandchild = std::stoi(lines_.front());
  for (int i = 0; i < 200 && ::kill(grandchild, 0) == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::ifstream state("/proc/" + lines_.front() + "/stat");  // a zombie where nobody collects orphans
  std::string text;
  std::getline(state, text);
  EXPECT_TRUE(text.empty() || text.find(") Z") != std::string::npos) << text;
}

}  // namespace
}  // namespace swiftprune
