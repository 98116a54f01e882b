// A disk that is full, or fails, at every single write of every command that writes; files that shrink while they are
// read; kills at random moments: one message, nothing half, the input untouched.
#include <csignal>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "cli/program.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::start;
using test::wait_for;
using ::testing::AnyOf;
using ::testing::HasSubstr;

using Content = std::map<std::string, std::string>;

class FailingDisk : public test::ProgramTest {
 protected:
  void SetUp() override {
    fs::copy(model("llama2"), at("model"));
    write_tokenizer(at("model"));
    fs::create_directory(at("disk"));
    ids(400);
    const auto made = [&](const std::vector<std::string>& arguments) {
      const Finished result = run(arguments);
      ASSERT_EQ(result.exit_code, 0) << result.error;
    };
    made({"prune", at("model"), "-o", at("pruned"), "--method", "magnitude", "-q"});
    made({"pack", at("pruned"), "-o", at("packed"), "-q"});
    made({"export", at("model"), "--gguf", at("model.gguf"), "-q"});
    commands_ = {
        {"prune", at("model"), "-o", out(), "--ids", at("ids.u16"), "--windows", "2", "--seqlen", "32", "-q"},
        {"prune", at("model"), "-o", out(), "--resume", "--method", "magnitude", "-q"},
        {"quantize", at("model"), "-o", out(), "--method", "rtn", "--group", "row", "--quantize-embeddings",
         "int8", "-q"},
        {"shrink", at("model"), "-o", out(), "--ratio", "0.3", "--ids", at("ids.u16"), "--windows", "2",
         "--seqlen", "32", "-q"},
        {"pack", at("pruned"), "-o", out(), "-q"},
        {"unpack", at("packed"), "-o", out(), "-q"},
        {"import", at("model.gguf"), out(), "-q"},
        {"export", at("model"), "--gguf", out(), "-q"}};
  }
  std::string out() const { return at("disk/out"); }
  static bool goes_on(const std::vector<std::string>& command) {
    return std::find(command.begin(), command.end(), "--resume") != command.end();
  }

  static Content content_of(const fs::path& path) {
    Content content;
    if (fs::is_regular_file(path)) content[""] = test::read_text(path);
    if (!fs::is_directory(path)) return content;
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (!entry.is_regular_file()) continue;
      std::string text = test::read_text(entry.path());
      if (entry.path().filename() == "swiftprune.json") text = "";  // holds times
      content[fs::relative(entry.path(), path)] = std::move(text);
    }
    return content;
  }
  Content inputs() const {
    Content all;
    for (const char* name : {"model", "pruned", "packed", "model.gguf"})
      for (auto& [file, text] : content_of(at(name))) all[std::string(name) + "/" + file] = text;
    return all;
  }
  // --resume may leave its own unfinished folder; everything else leaves nothing.
  void clear() {
    for (const auto& entry : fs::directory_iterator(at("disk"))) fs::remove_all(entry.path());
  }

  std::vector<std::vector<std::string>> commands_;
};

TEST_F(FailingDisk, EveryWriteThatFailsEndsInOneMessageAndNothingHalf) {
  const Content before = inputs();
  ::setenv("FAULT_FOLDER", at("disk").c_str(), 1);
  for (const int error : {ENOSPC, EIO}) {
    ::setenv("FAULT_ERRNO", std::to_string(error).c_str(), 1);
    for (const auto& command : commands_) {
      const bool resumes = goes_on(command);
      ASSERT_EQ(run(command).exit_code, 0);
      const Content whole = content_of(out());
      clear();
      int at_write = 0;
      for (bool failed = true; failed; clear()) {
        ::setenv("FAULT_AT", std::to_string(at_write += error == EIO ? 3 : 1).c_str(), 1);
        ::setenv("LD_PRELOAD", SWIFTPRUNE_FAILING_WRITES, 1);
        const Finished result = run(command);
        ::unsetenv("LD_PRELOAD");
        SCOPED_TRACE(command.front() + " with error " + std::to_string(error) + " at write " +
                     std::to_string(at_write));
        failed = result.exit_code != 0;
        if (!failed) break;
        ASSERT_EQ(result.exit_code, 1) << result.error;
        EXPECT_THAT(result.error, AnyOf(HasSubstr("the disk is full"), HasSubstr("cannot be written")));
        EXPECT_EQ(std::count(result.error.begin(), result.error.end(), '\n'), 1) << result.error;
        if (result.error.find("is whole") !=
            std::string::npos) {  // only the folder's own sync failed, behind it all
          EXPECT_EQ(content_of(out()), whole);
          continue;
        }
        EXPECT_FALSE(fs::exists(out()));
        EXPECT_TRUE(resumes || fs::is_empty(at("disk")));
        ASSERT_LT(at_write, 2000);
      }
      EXPECT_GE(at_write, 4) << command.front() << ": no write was seen";
      clear();
    }
  }
  EXPECT_EQ(inputs(), before);
}

// Bytes are those of a run that nobody disturbed, and what was killed is never taken for whole.
// SWIFTPRUNE_KILLS=200: so many moments of each command, told of on stdout.
TEST_F(FailingDisk, KilledAtRandomMomentsARunLeavesNothingThatLooksWhole) {
  const Content before = inputs();
  const char* asked = std::getenv("SWIFTPRUNE_KILLS");
  const int moments = asked != nullptr ? std::stoi(asked) : 6;
  std::mt19937 random(3);
  for (const auto& command : commands_) {
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_EQ(run(command).exit_code, 0);
    const auto takes =
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
    const Content whole = content_of(out());
    clear();
    std::uniform_int_distribution<std::int64_t> moment(0, takes.count());
    int killed = 0, left_something = 0;
    for (int i = 0; i < moments; ++i) {
      const pid_t child = start(command, at("stdout"), at("stderr"));
      std::this_thread::sleep_for(std::chrono::microseconds(moment(random)));
      ::kill(child, SIGKILL);
      const int code = wait_for(child);
      SCOPED_TRACE(command.front() + " killed, " + std::to_string(code));
      killed += code == -SIGKILL;
      left_something += !fs::exists(out()) && !fs::is_empty(at("disk"));
      if (fs::exists(out())) {  // it was through
        EXPECT_EQ(content_of(out()), whole);
      } else {
        const Finished again = run(command);
        ASSERT_EQ(again.exit_code, 0) << again.error;
        EXPECT_EQ(content_of(out()), whole);
      }
      clear();
    }
    if (asked != nullptr) {
      std::printf("%s%s: %d moments, %d killed, %d left an unfinished output\n", command.front().c_str(),
                  goes_on(command) ? " --resume" : "", moments, killed, left_something);
    }
  }
  EXPECT_EQ(inputs(), before);
}

TEST_F(FailingDisk, AModelThatShrinksWhileItIsReadIsNamed) {
  const pid_t child = start({"prune", at("model"), "-o", out(), "--ids", ids(40000), "--windows", "600",
                             "--seqlen", "64", "--threads", "1"},
                            at("stdout"), at("stderr"));
  for (int i = 0; i < 60000 && !fs::exists(at("disk/.out.partial/model.safetensors")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  fs::resize_file(at("model/model.safetensors"), 0);
  EXPECT_EQ(wait_for(child), 3);
  EXPECT_THAT(test::read_text(at("stderr")),
              HasSubstr("model/model.safetensors: its bytes can no longer be read: the file became shorter"));
  EXPECT_FALSE(fs::exists(out()));
}

}  // namespace
}  // namespace swiftprune
