// Signals, full disks and wrong places: what the program says was kept is what was kept.
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::start;
using test::wait_for;
using ::testing::HasSubstr;

class InterruptTest : public test::ProgramTest {
 protected:
  // Long enough to be stopped in the middle.
  std::vector<std::string> long_run(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {
        "prune",     model("llama2"), "-o",       at("out"), "--ids",     ids(40000),
        "--windows", "600",           "--seqlen", "64",      "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  fs::path partial() const { return at(".out.partial"); }
  fs::path journal() const { return partial() / "journal.jsonl"; }

  template <class Condition>
  static bool wait_until(Condition condition) {
    for (int i = 0; i < 60000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return condition();
  }
  std::size_t lines(const fs::path& file) const {
    std::ifstream in(file);
    std::size_t count = 0;
    for (std::string line; std::getline(in, line);) count += line.empty() ? 0 : 1;
    return count;
  }
  // Starts a run and stops it once its folder is laid out.
  int stop_in_the_middle(const std::vector<std::string>& arguments, int signal) {
    const pid_t child = start(arguments, at("stdout"), at("stderr"));
    EXPECT_TRUE(wait_until([&] { return fs::exists(partial() / "model.safetensors"); }));
    ::kill(child, signal);
    return wait_for(child);
  }
  // An unfinished run of the options.
  void leave_unfinished(const std::vector<std::string>& arguments) {
    const pid_t child = start(arguments, at("stdout"), at("stderr"));
    ASSERT_TRUE(wait_until([&] { return fs::exists(journal()) && fs::file_size(journal()) > 0; }));
    ::kill(child, SIGKILL);
    ASSERT_EQ(wait_for(child), -SIGKILL) << "the run was through before it could be killed";
  }
};

TEST_F(InterruptTest, EverySignalCleansUpAndHasItsExitCode) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_EQ(stop_in_the_middle(long_run(), signal), 128 + signal);
    EXPECT_EQ(test::read_text(at("stderr")), "swiftprune: interrupted: nothing was written\n");
    EXPECT_FALSE(fs::exists(at("out")));
    EXPECT_FALSE(fs::exists(partial()));
  }
}

TEST_F(InterruptTest, ASecondSignalEndsAtOnce) {
  const pid_t child = start(long_run({"--resume", "-q"}), at("stdout"), at("stderr"));
  ASSERT_TRUE(wait_until([&] { return fs::exists(partial() / "model.safetensors"); }));
  ::kill(child, SIGSTOP);  // both are there before either is seen
  ::kill(child, SIGTERM);
  ::kill(child, SIGINT);
  ::kill(child, SIGCONT);
  const int code = wait_for(child);
  EXPECT_TRUE(code == 128 + SIGINT || code == 128 + SIGTERM) << code;
  EXPECT_EQ(test::read_text(at("stderr")), "");  // nobody was asked what was kept
}

TEST_F(InterruptTest, ItSaysHowManyBlocksAreKept) {
  const std::vector<std::string> arguments = long_run({"--resume", "-q"});
  bool kept = false;
  for (int milliseconds = 20; milliseconds < 60000 && !kept; milliseconds += milliseconds / 3) {
    const pid_t child = start(arguments, at("stdout"), at("stderr"));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    ::kill(child, SIGINT);
    const int code = wait_for(child);
    if (code == 0) break;
    if (code != 130) continue;
    const std::size_t blocks = std::max<std::size_t>(1, lines(journal())) - 1;
    const std::string message = test::read_text(at("stderr"));
    if (blocks == 0) {
      EXPECT_EQ(message, "swiftprune: interrupted: nothing was written\n");
    } else {
      kept = true;
      EXPECT_THAT(message, HasSubstr("interrupted: " + std::to_string(blocks) + " finished block"));
      EXPECT_THAT(message, HasSubstr("the same command goes on"));
    }
    EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 1) << message;
  }
  if (!kept) GTEST_SKIP() << "no run was stopped between its first and its last block";
  ASSERT_EQ(run(arguments).exit_code, 0);
  std::vector<std::string> whole = long_run();
  whole[3] = at("whole");
  ASSERT_EQ(run(whole).exit_code, 0);
  EXPECT_TRUE(test::read_text(at("out/model.safetensors")) == test::read_text(at("whole/model.safetensors")));
}

// Each option changes bytes, so none may be exchanged behind finished blocks.
TEST_F(InterruptTest, ResumeRefusesWhateverChangesBytes) {
  leave_unfinished(long_run({"--resume"}));
  const std::vector<std::pair<std::vector<std::string>, std::string>> changes = {
      {{"--sparsity", "0.25"}, "--sparsity"},
      {{"--select", "sort"}, "--select"},
      {{"--propagate", "dense"}, "--propagate"},
      {{"--device", "auto"}, "--device"},
      {{"--seed", "1"}, "--seed"},
      {{"--score", "magnitude"}, "--score"},
      {{"--skip", "*.o_proj.weight"}, "--skip"},
      {{"--override", "*.o_proj.weight", "sparsity=0.1"}, "--override"}};
  for (const auto& [more, name] : changes) {
    std::vector<std::string> other = {"--resume"};
    other.insert(other.end(), more.begin(), more.end());
    const Finished result = run(long_run(other));
    EXPECT_EQ(result.exit_code, 2) << name;
    EXPECT_THAT(result.error, HasSubstr("had other options: " + name)) << name;
    EXPECT_TRUE(fs::exists(journal()));
  }
  // What changes none may be.
  EXPECT_EQ(run(long_run({"--resume", "--json", "--sparsity", "0.50"})).exit_code, 0);
}

TEST_F(InterruptTest, ResumeRefusesAnEditedPlan) {
  ASSERT_EQ(run({"prune", model("llama2"), "-o", at("made"), "--method", "magnitude"}).exit_code, 0);
  const std::string plan = test::read_text(at("made/plan.json"));
  const std::vector<std::string> arguments =
      long_run({"--resume", "--plan", at("plan.json"), "--method", "best"});
  std::string refined = plan;  // so that the run takes its time
  for (std::size_t found = 0; (found = refined.find("\"none\"", found)) != std::string::npos;)
    refined.replace(found, 6, "\"pcg(20)\"");
  test::write_text(at("plan.json"), refined);
  leave_unfinished(arguments);
  std::string edited = refined;
  const std::size_t half = edited.find("0.5");
  ASSERT_NE(half, std::string::npos);
  edited.replace(half, 3, "0.4");
  test::write_text(at("plan.json"), edited);
  const Finished result = run(arguments);
  EXPECT_EQ(result.exit_code, 2) << result.error;
  EXPECT_THAT(result.error, HasSubstr("another plan"));
  test::write_text(at("plan.json"), refined);
  EXPECT_EQ(run(arguments).exit_code, 0);
}

TEST_F(InterruptTest, LostOutputIsNoSuccess) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const std::vector<std::vector<std::string>> commands = {
      {"methods"}, {"inspect", model("llama2"), "--json"}, {"--help"}, {"--version"}};
  for (const std::vector<std::string>& arguments : commands) {
    EXPECT_EQ(wait_for(start(arguments, "/dev/full", at("stderr"))), 1);
    EXPECT_THAT(test::read_text(at("stderr")), HasSubstr("cannot be written"));
  }
  EXPECT_EQ(wait_for(start({"nothing"}, "/dev/full", at("stderr"))), 2);  // the first error counts
}

TEST_F(InterruptTest, WrongPlacesAreRefusedBeforeTheWork) {
  const std::string text = ids(400), dense = model("llama2");
  const auto refused = [&](std::vector<std::string> arguments, const std::string& message) {
    const Finished result = run(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.error;
    EXPECT_THAT(result.error, HasSubstr(message));
  };
  fs::copy(dense, at("model"));
  for (const char* flag : {"--report", "--markdown"}) {
    refused({"compare", dense, dense, "--text", text, flag, at("no/where/o.html")},
            std::string(flag) + ": " + at("no/where/o.html") + " cannot be written: there is no folder");
    refused({"compare", dense, dense, "--text", text, flag, at("model")}, "found the folder");
    refused({"pilot", dense, "--text", text, flag, at("no/where/o.html")}, flag);
  }
  refused({"tokenize", dense, "--prompt", "a", "--ids-out", at("no/where/o.u16")}, "--ids-out: ");
  refused({"export", dense, "--gguf", at("no/where/o.gguf")}, "--gguf: ");
  for (const std::string inside : {"model/sub", "model", "model/../model/a/b"}) {
    refused({"prune", at("model"), "-o", at(inside), "--method", "magnitude"}, "lies inside the model");
    refused({"shrink", at("model"), "-o", at(inside), "--ratio", "0.2"}, "lies inside the model");
    refused({"pack", at("model"), "--out", at(inside)}, "lies inside the model");
    refused({"unpack", at("model"), "--out", at(inside)}, "lies inside the model");
  }
  EXPECT_EQ(run({"prune", at("model"), "-o", at("model-pruned"), "--method", "magnitude"}).exit_code, 0);
}

TEST_F(InterruptTest, AModelThatIsSparserAlreadyIsNoted) {
  ASSERT_EQ(run({"prune", model("llama2"), "-o", at("half"), "--method", "magnitude"}).exit_code, 0);
  Finished result =
      run({"prune", at("half"), "-o", at("again"), "--method", "magnitude", "--sparsity", "0.3"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.error,
              HasSubstr("had 50.00 % zeros already, more than the 30.00 % that were asked for"));
  result = run({"prune", at("half"), "-o", at("more"), "--method", "magnitude", "--sparsity", "0.7"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.error, ::testing::Not(HasSubstr("zeros already")));
}

// Interrupted in the middle, then again and again at later moments until a run is through: nothing is there, or all of it.
TEST_F(InterruptTest, InterruptedRunsLeaveNothing) {
  const std::string text = ids(40000);
  const std::string before = test::read_text(model("llama2") + "/model.safetensors");
  // Without lines of progress, which a run on a busy machine is long enough for.
  const auto arguments = [&](const std::string& out) {
    return std::vector<std::string>{"prune",      model("llama2"), "-o",       at(out), "--ids",     text,
                                    "--windows",  "600",           "--seqlen", "64",    "--threads", "1",
                                    "--progress", "none"};
  };
  ASSERT_EQ(run(arguments("whole")).exit_code, 0);
  const std::string whole = test::read_text(at("whole/model.safetensors"));
  const auto interrupted = [&](pid_t child) {
    ::kill(child, SIGINT);
    const int code = wait_for(child);
    EXPECT_TRUE(hidden_files().empty());
    const std::string error = test::read_text(at("stderr"));
    if (fs::exists(at("out"))) {  // it was through when the signal came, or nearly
      EXPECT_EQ(test::read_text(at("out/model.safetensors")), whole);
      EXPECT_TRUE(code == 0 || code == 130 || code == -SIGINT) << code;
      if (code == 130) {
        EXPECT_THAT(error, HasSubstr("was written, what was to follow was not done"));
      }
    } else if (code == 130) {
      EXPECT_EQ(error, "swiftprune: interrupted: nothing was written\n");
    } else {
      EXPECT_EQ(code, -SIGINT);  // before the program watched for it
    }
    return code == 130 && !fs::exists(at("out"));
  };
  const pid_t working = start(arguments("out"), at("stdout"), at("stderr"));
  for (int i = 0; i < 60000 && hidden_files().empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(interrupted(working));
  for (int milliseconds = 5; milliseconds < 60000 && !fs::exists(at("out")); milliseconds *= 2) {
    const pid_t child = start(arguments("out"), at("stdout"), at("stderr"));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    interrupted(child);
  }
  EXPECT_TRUE(test::read_text(model("llama2") + "/model.safetensors") == before);
}

TEST_F(InterruptTest, AKilledRunGoesOnToTheSameBytes) {
  const std::string text = ids(40000);
  const auto arguments = [&](const std::string& out) {
    return std::vector<std::string>{"prune",     model("llama2"), "-o",       at(out), "--ids",     text,
                                    "--windows", "600",           "--seqlen", "64",    "--threads", "1"};
  };
  ASSERT_EQ(run(arguments("whole")).exit_code, 0);
  std::vector<std::string> resumed = arguments("out");
  resumed.push_back("--resume");
  for (int milliseconds = 20; milliseconds < 60000; milliseconds *= 2) {
    const pid_t child = start(resumed, at("stdout"), at("stderr"));
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    ::kill(child, SIGKILL);
    if (wait_for(child) == 0) break;
    EXPECT_FALSE(fs::exists(at("out")));
  }
  EXPECT_EQ(test::read_text(at("out/model.safetensors")), test::read_text(at("whole/model.safetensors")));
  EXPECT_TRUE(hidden_files().empty());
}

TEST_F(InterruptTest, ResumeRefusesOtherOptions) {
  const std::string text = ids(4000);
  std::vector<std::string> arguments = {"prune", model("llama2"), "-o", at("out"), "--ids", text, "--windows",
                                        "60",    "--seqlen",      "64", "--resume"};
  const fs::path partial = at(".out.partial");
  pid_t child = start(arguments, at("stdout"), at("stderr"));
  while (!fs::exists(partial / "journal.jsonl") || fs::file_size(partial / "journal.jsonl") == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(child, SIGKILL);
  if (wait_for(child) == 0) GTEST_SKIP() << "the run was through before it could be killed";
  arguments.insert(arguments.end(), {"--sparsity", "0.25"});
  const Finished result = run(arguments);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.error, HasSubstr("--resume"));
  EXPECT_TRUE(fs::exists(partial));
  arguments.erase(std::find(arguments.begin(), arguments.end(), "--resume"));
  EXPECT_EQ(run(arguments).exit_code, 0);
  EXPECT_TRUE(hidden_files().empty());
}

}  // namespace
}  // namespace swiftprune
