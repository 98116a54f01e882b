#include "swiftprune/evaluation/generation_drift.h"

#include <gtest/gtest.h>

#include "evaluation/pruned_copy.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/model/generator.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::kTinyModel;
using test::TempDir;
using test::write_text;

TEST(RepetitionTest, CountsFourGrams) {
  EXPECT_EQ(repetition({}), 0.0);
  EXPECT_EQ(repetition(std::vector<std::int32_t>{1, 1, 1, 1}), 0.0);
  EXPECT_EQ(repetition(std::vector<std::int32_t>{1, 1, 1, 1, 1}), 0.5);
  EXPECT_EQ(repetition(std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}), 0.0);
  EXPECT_DOUBLE_EQ(repetition(std::vector<std::int32_t>{1, 2, 3, 4, 1, 2, 3, 4}), 1.0 / 5.0);
}

TEST(DriftTest, ComparesAnswers) {
  const auto answer = [](std::vector<std::int32_t> ids, bool ended) {
    Answer a;
    a.ids = std::move(ids);
    a.ended = ended;
    a.repetition = repetition(a.ids);
    return a;
  };
  AnswerSet dense, pruned;
  dense.answers = {answer({1, 2, 3}, true), answer({1, 2}, true), answer({4, 5}, true)};
  pruned.answers = {answer({1, 2, 3}, true), answer({1, 9, 9, 9, 9, 9}, false), answer({4, 5}, false)};
  const GenerationDrift d = drift(dense, pruned);
  EXPECT_DOUBLE_EQ(d.identical, 1.0 / 3.0);
  EXPECT_EQ(d.common_tokens, (std::vector<std::int64_t>{3, 1, 2}));
  EXPECT_DOUBLE_EQ(d.mean_common_tokens, 2.0);
  EXPECT_DOUBLE_EQ(d.mean_tokens, 11.0 / 3.0);
  EXPECT_DOUBLE_EQ(d.dense_mean_tokens, 7.0 / 3.0);
  EXPECT_DOUBLE_EQ(d.repetition, 1.0 / 9.0);  // one of the three 4-grams of the second answer
}

TEST(LoopTest, IsTheSameNGramThreeTimesOverTwelveTokens) {
  using Ids = std::vector<std::int32_t>;
  EXPECT_FALSE(ends_in_loop({}));
  EXPECT_FALSE(ends_in_loop(Ids(11, 7)));
  EXPECT_TRUE(ends_in_loop(Ids(12, 7)));
  EXPECT_TRUE(ends_in_loop(Ids{1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}));
  EXPECT_TRUE(ends_in_loop(Ids{9, 8, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5}));
  EXPECT_FALSE(ends_in_loop(Ids{1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 5}));
  EXPECT_FALSE(ends_in_loop(Ids{1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 9}));
  EXPECT_TRUE(ends_in_loop(Ids{0, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1}));
  EXPECT_FALSE(ends_in_loop(Ids{0, 3, 4, 1, 2, 1, 2, 1, 2, 1, 2, 1}));
}

TEST(QuestionTest, RightAnswersBeginTheText) {
  const std::vector<std::string> right = {"Paris", "42"};
  for (const char* text : {"Paris", " \n Paris.", "Paris is the capital", "42", "42, of course"}) {
    EXPECT_TRUE(is_right(right, text)) << text;
  }
  for (const char* text : {"", "paris", "Parisian", "Paris\xc3\xa9", "421", "The answer is 42", "Pari"}) {
    EXPECT_FALSE(is_right(right, text)) << text;
  }
  EXPECT_TRUE(is_right(std::vector<std::string>{" Paris\n"}, "Paris"));
  EXPECT_FALSE(is_right({}, "Paris"));
}

TEST(DriftTest, CountsNewLoopsAndRightAnswers) {
  const auto answer = [](const std::string& text, bool loops) {
    Answer a;
    a.ids = {1};
    a.text = text;
    a.loops = loops;
    return a;
  };
  AnswerSet dense, pruned;
  dense.answers = {answer("4", true), answer("Rome", false), answer("5", false), answer("x", false)};
  pruned.answers = {answer("4", true), answer("Rome", true), answer("6", true), answer("x", false)};
  const std::vector<Prompt> prompts = {{"1", "2 + 2 =", {}, {"4"}},
                                       {"2", "Italy", {}, {"Rome", "Roma"}},
                                       {"3", "2 + 3 =", {}, {"5"}},
                                       {"4", "y", {}, {}}};
  const GenerationDrift d = drift(dense, pruned, prompts);
  EXPECT_DOUBLE_EQ(d.loops, 0.75);
  EXPECT_DOUBLE_EQ(d.dense_loops, 0.25);
  EXPECT_DOUBLE_EQ(d.new_loops, 0.5);
  EXPECT_EQ(d.questions, 3);
  EXPECT_EQ(d.exact, 2);
  EXPECT_EQ(d.dense_exact, 3);
  EXPECT_EQ(drift(dense, pruned).questions, 0);
}

TEST(PromptsTest, QuestionsHaveRightAnswers) {
  TempDir folder;
  const auto file = folder.path() / "q.jsonl";
  write_text(file, R"({"prompt": "2 + 2 =", "answer": "4"})"
                   "\n"
                   R"({"prompt": "Italy", "answer": ["Rome", "Roma"]})"
                   "\n"
                   R"({"prompt": "Hello"})");
  const auto prompts = read_prompts(file);
  EXPECT_EQ(prompts.at(0).right, (std::vector<std::string>{"4"}));
  EXPECT_EQ(prompts.at(1).right, (std::vector<std::string>{"Rome", "Roma"}));
  EXPECT_TRUE(prompts.at(2).right.empty());
  for (const auto& [answer, text] : {std::pair{"[]", "found an empty list"},
                                     {"\"  \"", "found a blank answer"},
                                     {"4", "answer"},
                                     {"[4]", "answer"}}) {
    write_text(file, std::string(R"({"prompt": "a", "answer": )") + answer + "}");
    expect_error(ErrorKind::kBadInput, [&] { read_prompts(file); }, {"line 1", text});
  }
}

TEST(PromptsTest, LinesAndJson) {
  TempDir folder;
  write_text(folder.path() / "p.txt", "one\r\n\ntwo\n");
  const auto lines = read_prompts(folder.path() / "p.txt");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].text, "one");
  EXPECT_EQ(lines[1].text, "two");
  EXPECT_NE(lines[1].where.find("line 3"), std::string::npos);
  write_text(folder.path() / "p.jsonl", R"({"prompt": "a\nb", "accept": ["x", "y"]})");
  const auto json = read_prompts(folder.path() / "p.jsonl");
  EXPECT_EQ(json.at(0).text, "a\nb");
  EXPECT_EQ(json.at(0).accept, (std::vector<std::string>{"x", "y"}));
}

TEST(PromptsTest, BadFiles) {
  TempDir folder;
  const auto read = [&](const char* name, const char* content) {
    return [&folder, name, content] {
      write_text(folder.path() / name, content);
      read_prompts(folder.path() / name);
    };
  };
  expect_error(ErrorKind::kBadInput, read("p.txt", "\n\n"), {"p.txt", "found no prompt"});
  expect_error(ErrorKind::kBadInput, read("p.txt", "a\xff"), {"p.txt", "0xff", "UTF-8"});
  expect_error(ErrorKind::kBadInput, read("p.jsonl", "{\"text\": \"a\"}"),
               {"p.jsonl: line 1", "\"prompt\" is missing"});
  expect_error(ErrorKind::kBadInput, read("p.jsonl", "{\"prompt\": \"a\", \"accept\": [1]}"),
               {"line 1", "accept[0]"});
}

class AnswersTest : public ::testing::Test {
 protected:
  std::unique_ptr<Model> model_ = Model::open(kTinyModel);
  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::open(kTinyModel);
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  GeneratorMaker make_generator_ = [this](std::int64_t sequences, std::int64_t capacity) {
    return std::make_unique<Generator>(*model_, *backend_, ComputeType::kF32, sequences, capacity);
  };
};

// Each token of a greedy answer is the likeliest one of the whole text so far.
TEST_F(AnswersTest, AreGreedy) {
  const std::vector<Prompt> prompts = {{"a", "The sun is a", {}}, {"b", "Cats", {}}};
  AnswerOptions options;
  options.max_tokens = 12;
  const AnswerSet generation = generate_answers(*model_, make_generator_, *tokenizer_, prompts, options);
  ASSERT_EQ(generation.answers.size(), 2u);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<std::int32_t> prompt = tokenizer_->encode(prompts[i].text);
    TokenWindows all{0, prompt};
    const auto& answer = generation.answers[i].ids;
    all.ids.insert(all.ids.end(), answer.begin(), answer.end());
    all.seqlen = std::ssize(all.ids);
    std::vector<std::int32_t> best;
    for_each_logits(*model_, *backend_, all, {}, [&](std::int64_t, std::int64_t, ConstMatrixView logits) {
      for (std::int64_t r = 0; r < logits.rows; ++r) {
        const auto row = logits.row_span(r);
        best.push_back(static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
      }
    });
    ASSERT_FALSE(answer.empty());
    for (std::size_t t = 0; t < answer.size(); ++t) EXPECT_EQ(answer[t], best[prompt.size() - 1 + t]) << t;
    EXPECT_EQ(generation.answers[i].text, tokenizer_->decode(answer));
    EXPECT_EQ(generation.answers[i].ended || std::ssize(answer) == options.max_tokens, true);
  }
  const GenerationDrift none = drift(generation, generation);
  EXPECT_EQ(none.identical, 1.0);
}

TEST_F(AnswersTest, PromptsThatDoNotFit) {
  AnswerOptions options;
  options.max_tokens = model_->config().max_positions;
  const std::vector<Prompt> prompts = {{"p.txt: line 7", "Cats", {}}};
  expect_error(ErrorKind::kBadInput,
               [&] { generate_answers(*model_, make_generator_, *tokenizer_, prompts, options); },
               {"p.txt: line 7", "expected at most 160"});
}

TEST(AcceptedTest, MatchesAnyPattern) {
  const std::vector<Prompt> prompts = {{"f: line 1", "a", {"(?i)cannot|can't", "^no\\b"}},
                                       {"f: line 2", "b", {"^no\\b"}}};
  AnswerSet generation;
  generation.answers.resize(2);
  generation.answers[0].text = "I CANNOT do that";
  generation.answers[1].text = "I know nothing";
  EXPECT_EQ(accepted(prompts, generation), (std::vector<bool>{true, false}));
  const std::vector<Prompt> none = {{"f: line 3", "a", {}}, prompts[1]};
  expect_error(ErrorKind::kBadInput, [&] { accepted(none, generation); }, {"f: line 3", "found no pattern"});
  const std::vector<Prompt> broken = {{"f: line 4", "a", {"("}}, prompts[1]};
  expect_error(ErrorKind::kBadInput, [&] { accepted(broken, generation); }, {"f: line 4"});
}

}  // namespace
}  // namespace swiftprune
