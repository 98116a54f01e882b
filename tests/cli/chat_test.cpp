// A conversation with the program: over a pipe, and at a terminal (a pseudo-terminal) where Ctrl-C stops an answer.
#include <poll.h>
#include <pty.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "cli/program.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class ChatTest : public test::ProgramTest {
 protected:
  void SetUp() override {
    fs::copy(SWIFTPRUNE_TEST_DATA "/evaluation/model", at("model"));
    // As generate has its prompt: BOS in front.
    template_is("<s>{% for m in messages %}{{ m.role[0] }} {{ m.content }}\n{% endfor %}");
  }
  void template_is(const std::string& text) { test::write_text(at("model/chat_template.jinja"), text); }
  // Answers have no end but --max-tokens.
  void never_ends() {
    Json config = Json::parse(test::read_text(at("model/config.json")));
    config["eos_token_id"] = nullptr;
    config["max_position_embeddings"] = 100000;
    test::write_text(at("model/config.json"), config.dump());
    Json tokenizer = Json::parse(test::read_text(at("model/tokenizer_config.json")));
    tokenizer.erase("eos_token");
    test::write_text(at("model/tokenizer_config.json"), tokenizer.dump());
  }

  Finished talk(const std::string& input, const std::vector<std::string>& more = {}) {
    test::write_text(at("input"), input);
    std::vector<std::string> arguments = {"chat", at("model"), "--temperature", "0", "-n", "8"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments, at("input"));
  }
  Json document(const std::string& input, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = more;
    arguments.emplace_back("--json");
    const Finished result = talk(input, arguments);
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return Json::parse(result.out);
  }
};

TEST_F(ChatTest, AnswersAsGenerateDoesOfTheWholeConversation) {
  const Json found = document("The sun\nand the moon");
  ASSERT_EQ(found["answers"].size(), 2u);
  ASSERT_EQ(found["messages"].size(), 4u);
  std::string conversation;
  for (int answer = 0; answer < 2; ++answer) {
    conversation += "u " + found["messages"][2 * answer]["content"].get<std::string>() + "\n";
    const Finished whole = run({"generate", at("model"), "-p", conversation, "-n", "8", "--json"});
    ASSERT_EQ(whole.exit_code, 0) << whole.error;
    const std::string text = Json::parse(whole.out)["text"];
    EXPECT_EQ(found["messages"][2 * answer + 1]["content"], text);
    EXPECT_EQ(found["answers"][answer]["text"], text);
    conversation += "a " + text + "\n";
  }
  // Without --json: the same answers as they are written, numbers apart; characters that are never complete are not for
  // a terminal.
  const auto complete = [](std::string text) {
    while (text.ends_with("\uFFFD")) text.resize(text.size() - 3);
    return text + "\n";
  };
  const Finished shown = talk("The sun\nand the moon");
  EXPECT_EQ(shown.out, complete(found["answers"][0]["text"]) + complete(found["answers"][1]["text"]));
  EXPECT_THAT(shown.error, HasSubstr("tokens/s"));
  EXPECT_EQ(talk("The sun\n", {"-q"}).error, "");
}

TEST_F(ChatTest, ObeysCommands) {
  const Json found =
      document("One\n\n/system Be kind.\nTwo\n/wrong\n/reset\n//three \\\nand four\n/exit\nFive\n",
               {"--system", "Be short."});
  ASSERT_EQ(found["messages"].size(), 3u);
  EXPECT_EQ(found["messages"][0], (Json{{"role", "system"}, {"content", "Be kind."}}));
  EXPECT_EQ(found["messages"][1]["content"], "/three \nand four");
  EXPECT_EQ(found["answers"].size(), 3u) << "nothing behind /exit";
  const Finished shown = talk("/wrong\n/help\n");
  EXPECT_EQ(shown.exit_code, 0);
  EXPECT_THAT(shown.error, HasSubstr("/wrong: no such command"));
  EXPECT_THAT(shown.error, HasSubstr("/reset forgets"));
}

TEST_F(ChatTest, WhatFailsWithOneMessageDoesNotEndIt) {
  template_is(
      "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('not this') }}{% endif %}"
      "{{ m.content }}{% endfor %}");
  const Json found = document("bad\ngood\n" + std::string(400, 'x') + "\ngood\n");
  ASSERT_EQ(found["answers"].size(), 4u);
  EXPECT_THAT(found["answers"][0]["error"], HasSubstr("not this"));
  EXPECT_THAT(found["answers"][2]["error"], HasSubstr("/reset begins a new one"));
  ASSERT_EQ(found["messages"].size(), 4u) << "taken back";
  EXPECT_EQ(found["messages"][0]["content"], "good");
  EXPECT_EQ(found["messages"][2]["content"], "good");
}

// Kernels are measured when the first token is written, which is not written behind that on one line.
TEST_F(ChatTest, ProgressIsTakenAwayBeforeTheAnswer) {
  ASSERT_EQ(run({"pack", at("model"), "-o", at("packed"), "--quantize", "int8"}).exit_code, 0);
  const Finished written =
      run({"generate", at("packed"), "-p", "The sun", "-n", "4", "--retune", "--progress", "bar"});
  ASSERT_EQ(written.exit_code, 0) << written.error;
  const std::size_t measured = written.error.rfind("measure kernels"),
                    taken = written.error.rfind("\r\033[K");
  if (measured != std::string::npos) {
    EXPECT_NE(taken, std::string::npos);
    EXPECT_GT(taken, measured) << written.error;
  }
  EXPECT_THAT(written.out, testing::StartsWith("The sun"));
}

TEST_F(ChatTest, TakesATemplateAndWantsOne) {
  test::write_text(at("other.jinja"), "{{ messages[0].content }}");
  const Json own = document("The sun"), other = document("The sun", {"--chat-template", at("other.jinja")});
  EXPECT_NE(own["answers"][0]["prompt_tokens"], other["answers"][0]["prompt_tokens"]);
  fs::remove(at("model/chat_template.jinja"));
  const Finished none = talk("The sun");
  EXPECT_EQ(none.exit_code, 3);
  EXPECT_THAT(none.error, HasSubstr("--chat-template"));
}

// What is read again is what the answer before did not leave in the cache.
TEST_F(ChatTest, ReadsOnlyWhatIsNew) {
  never_ends();
  template_is("{% for m in messages %}{{ m.content }}\n{% endfor %}");
  const Json found = document("The sun and the moon and the stars\nand\n");
  EXPECT_EQ(found["answers"][0]["cached_tokens"], 0);
  const auto prompt = found["answers"][0]["prompt_tokens"].get<int>();
  EXPECT_GE(found["answers"][1]["cached_tokens"], prompt) << found;
}

// The program's side of a terminal.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& arguments) {
    std::vector<std::string> copies = arguments;
    std::string program = SWIFTPRUNE_PROGRAM;
    std::vector<char*> argv = {program.data()};
    for (std::string& argument : copies) argv.push_back(argument.data());
    argv.push_back(nullptr);
    child_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (child_ == 0) {
      ::execv(program.c_str(), argv.data());
      ::_exit(127);
    }
  }
  ~Terminal() { ::close(terminal_); }

  void type(const std::string& text) const { (void)!::write(terminal_, text.data(), text.size()); }
  // Reads until this text came, from where the last one ended.
  bool shows(const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < deadline) {
      if (const std::size_t found = seen_.find(text, read_); found != std::string::npos) {
        read_ = found + text.size();
        return true;
      }
      pollfd waited{terminal_, POLLIN, 0};
      if (::poll(&waited, 1, 100) <= 0) continue;
      std::array<char, 4096> buffer{};
      const ssize_t count = ::read(terminal_, buffer.data(), buffer.size());
      if (count <= 0) return false;
      seen_.append(buffer.data(), static_cast<std::size_t>(count));
    }
    return false;
  }
  const std::string& seen() const { return seen_; }
  int exit_code() {
    while (shows("\x01")) {  // reads on, so that the program can write on
    }
    return test::wait_for(child_);
  }
  pid_t child() const { return child_; }

 private:
  int terminal_ = -1;
  pid_t child_ = -1;
  std::string seen_;
  std::size_t read_ = 0;
};

TEST_F(ChatTest, CtrlCStopsTheAnswerAndNotTheProgram) {
  never_ends();
  Terminal terminal({"chat", at("model"), "-n", "90000", "--seed", "1"});
  ASSERT_TRUE(terminal.shows("> ")) << terminal.seen();
  terminal.type("\x03");  // nothing to stop
  ASSERT_TRUE(terminal.shows("(/exit or Ctrl-D ends)")) << terminal.seen();
  for (const char* message : {"The sun\n", "The moon\n"}) {
    terminal.type(message);
    ASSERT_TRUE(terminal.shows(message[4] == 's' ? "sun\r\n" : "moon\r\n")) << terminal.seen();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    terminal.type("\x03");
    ASSERT_TRUE(terminal.shows("; stopped]")) << terminal.seen();
    ASSERT_TRUE(terminal.shows("> "));
  }
  terminal.type("\x04");
  EXPECT_EQ(terminal.exit_code(), 0) << terminal.seen();
}

TEST_F(ChatTest, TypedLinesAreEditedAndComeBack) {
  ::setenv("TERM", "vt100", 1);
  Terminal terminal({"chat", at("model"), "-n", "1", "--seed", "1"});
  ASSERT_TRUE(terminal.shows("> ")) << terminal.seen();
  terminal.type("/sunshine\x7f\x7f\x7f\x7f\x7f\n");  // backspaces
  ASSERT_TRUE(terminal.shows("/sun: no such command")) << terminal.seen();
  terminal.type("/m\xc3\xb8\xc3\xb8n\n");
  ASSERT_TRUE(terminal.shows("/m\xc3\xb8\xc3\xb8n: no such command")) << terminal.seen();
  terminal.type("\x1b[A\x1b[A\n");  // two lines up
  ASSERT_TRUE(terminal.shows("/sun: no such command")) << terminal.seen();
  // What Ctrl-C drops is no part of the next line.
  terminal.type("/stars");
  ASSERT_TRUE(terminal.shows("/stars")) << terminal.seen();
  terminal.type("\x03");
  ASSERT_TRUE(terminal.shows("(/exit or Ctrl-D ends)")) << terminal.seen();
  terminal.type("/moon\n");
  ASSERT_TRUE(terminal.shows("/moon: no such command")) << terminal.seen();
  terminal.type("/exit\n");
  EXPECT_EQ(terminal.exit_code(), 0) << terminal.seen();
}

TEST_F(ChatTest, OtherSignalsEndItWhereverItIs) {
  never_ends();
  for (const bool answering : {false, true}) {
    Terminal terminal({"chat", at("model"), "-n", "90000"});
    ASSERT_TRUE(terminal.shows("> "));
    if (answering) {
      terminal.type("The sun\n");
      ASSERT_TRUE(terminal.shows("sun\r\n"));
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    ::kill(terminal.child(), SIGTERM);
    EXPECT_EQ(terminal.exit_code(), 128 + SIGTERM) << terminal.seen();
  }
}

}  // namespace
}  // namespace swiftprune
