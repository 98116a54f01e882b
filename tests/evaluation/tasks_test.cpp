// Prompts, choice scores and accuracies against lm-evaluation-harness (tests/data/evaluation, written by
// tools/make_task_fixtures.py).
#include "swiftprune/evaluation/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"
#include "swiftprune/core/json.h"
#include "swiftprune/evaluation/continuations.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::TempDir;
using test::write_text;

const std::filesystem::path kData = SWIFTPRUNE_TEST_DATA "/evaluation";

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  const nlohmann::json expected = read_json_file(kData / "expected.json");
  for (const auto& item : expected.items()) names.push_back(item.key());
  return names;
}

// Context and continuation of each choice.
std::vector<std::pair<std::string, std::string>> requests(const TaskItem& item) {
  std::vector<std::pair<std::string, std::string>> result;
  for (std::size_t i = 0; i < item.num_choices(); ++i) {
    result.emplace_back(item.contexts[item.contexts.size() == 1 ? 0 : i],
                        item.continuations[item.continuations.size() == 1 ? 0 : i]);
  }
  return result;
}

class HarnessTest : public ::testing::TestWithParam<std::string> {
 protected:
  nlohmann::json expected_ = read_json_file(kData / "expected.json").at(GetParam());
  Task task_ = read_task((kData / (GetParam() + ".jsonl")).string(), 0);
};

TEST_P(HarnessTest, Prompts) {
  ASSERT_EQ(task_.items.size(), expected_.size());
  for (std::size_t i = 0; i < task_.items.size(); ++i) {
    const auto found = requests(task_.items[i]);
    const nlohmann::json& wanted = expected_[i].at("requests");
    ASSERT_EQ(found.size(), wanted.size());
    for (std::size_t c = 0; c < found.size(); ++c) {
      EXPECT_EQ(found[c].first, wanted[c][0].get<std::string>());
      EXPECT_EQ(found[c].second, wanted[c][1].get<std::string>());
    }
  }
}

TEST_P(HarnessTest, Scores) {
  const auto model = Model::open(kData / "model");
  const auto tokenizer = Tokenizer::open(kData / "model");
  for (const auto& backend : {make_cpu_backend(), make_reference_backend()}) {
    const TaskResult result = run_task(*model, *test::forwards_of(*model, *backend), *tokenizer, task_, {});
    double acc = 0.0, acc_norm = 0.0;
    for (std::size_t i = 0; i < result.items.size(); ++i) {
      const nlohmann::json& wanted = expected_[i];
      ASSERT_EQ(result.items[i].log_probs.size(), wanted.at("log_probs").size());
      for (std::size_t c = 0; c < result.items[i].log_probs.size(); ++c) {
        EXPECT_NEAR(result.items[i].log_probs[c], wanted["log_probs"][c].get<double>(), 2e-4)
            << GetParam() << " item " << i << " choice " << c;
      }
      EXPECT_EQ(result.items[i].correct, wanted["acc"] == 1.0);
      if (wanted.contains("acc_norm")) {
        EXPECT_EQ(result.items[i].correct_norm, wanted["acc_norm"] == 1.0) << i;
      }
      acc += wanted["acc"].get<double>();
      acc_norm += result.items[i].correct_norm ? 1.0 : 0.0;
    }
    const auto n = static_cast<double>(result.items.size());
    EXPECT_DOUBLE_EQ(result.acc, acc / n);
    EXPECT_DOUBLE_EQ(result.acc_norm, acc_norm / n);
    EXPECT_EQ(result.num_truncated, GetParam() == "boolq" ? 1 : 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, HarnessTest, ::testing::ValuesIn(task_names()),
                         [](const auto& test) { return test.param; });

TEST(TasksTest, SharedBeginningsRunOnce) {
  const auto model = Model::open(kData / "model");
  const auto backend = make_cpu_backend();
  // Five sequences: a shared context of 4, two of them longer, one a beginning of another.
  const std::vector<std::vector<ScoredSequence>> items = {
      {{{2, 3, 4, 5, 6}, 4}, {{2, 3, 4, 5, 7, 8, 9}, 4}, {{2, 3, 4, 5, 7, 8}, 4}},
      {{{9, 8}, 1}, {{7, 6, 5}, 1}}};
  const ContinuationScores together =
      score_continuations(*model, *test::forwards_of(*model, *backend), items, {});
  EXPECT_EQ(together.num_unshared, 4 + 6 + 5 + 1 + 2);
  EXPECT_EQ(together.num_forwarded, 4 + 0 + 2 + 1 + 1 + 2);
  for (std::size_t i = 0; i < items.size(); ++i) {
    for (std::size_t c = 0; c < items[i].size(); ++c) {
      const std::vector<std::vector<ScoredSequence>> alone = {{items[i][c]}};
      EXPECT_NEAR(
          together.items[i][c].log_prob,
          score_continuations(*model, *test::forwards_of(*model, *backend), alone, {}).items[0][0].log_prob,
          1e-4);
    }
  }
}

TEST(TasksTest, SmallMemoryGivesTheSame) {
  const auto model = Model::open(kData / "model");
  const auto tokenizer = Tokenizer::open(kData / "model");
  const auto backend = make_cpu_backend();
  const Task task = read_task((kData / "arc_easy.jsonl").string(), 0);
  ForwardOptions small;
  small.hidden_bytes = 1;  // an item at a time
  const TaskResult a = run_task(*model, *test::forwards_of(*model, *backend), *tokenizer, task, {});
  const TaskResult b = run_task(*model, *test::forwards_of(*model, *backend, small), *tokenizer, task, {});
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    for (std::size_t c = 0; c < a.items[i].log_probs.size(); ++c) {
      EXPECT_NEAR(a.items[i].log_probs[c], b.items[i].log_probs[c], 1e-4);
    }
  }
}

TEST(TasksTest, StandardErrorIsThatOfTheMean) {
  const auto backend = make_cpu_backend();
  const auto model = Model::open(kData / "model");
  const auto tokenizer = Tokenizer::open(kData / "model");
  const TaskResult result = run_task(*model, *test::forwards_of(*model, *backend), *tokenizer,
                                     read_task((kData / "piqa.jsonl").string(), 0), {});
  double squares = 0.0;
  for (const TaskItemResult& item : result.items)
    squares += std::pow((item.correct ? 1.0 : 0.0) - result.acc, 2.0);
  const auto n = static_cast<double>(result.items.size());
  EXPECT_NEAR(result.acc_stderr, std::sqrt(squares / (n - 1.0)) / std::sqrt(n), 1e-12);
}

// Lines that hold a query already give the prompt of the dataset's own fields.
struct SameItem {
  const char* format;
  const char* dataset;
  const char* query;
};
class QueryLinesTest : public ::testing::TestWithParam<SameItem> {};

TEST_P(QueryLinesTest, GiveTheSameRequests) {
  TempDir folder;
  const auto item = [&](const char* line) {
    const auto file = folder.path() / "lines.jsonl";
    write_text(file, line);
    return read_task(fmt::format("{}={}", GetParam().format, file.string()), 0).items.at(0);
  };
  const TaskItem a = item(GetParam().dataset), b = item(GetParam().query);
  EXPECT_EQ(requests(a), requests(b));
  EXPECT_EQ(a.gold, b.gold);
  EXPECT_EQ(a.lengths, b.lengths);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, QueryLinesTest,
    ::testing::Values(
        SameItem{"piqa", R"({"goal": "Dry a shoe", "sol1": "a", "sol2": "bc", "label": 1})",
                 R"({"query": "Question: Dry a shoe\n", "choices": ["a", "bc"], "gold": 1})"},
        SameItem{
            "arc_easy",
            R"({"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"})",
            R"({"query": "Question: Why?", "choices": ["a", "b"], "gold": 1})"},
        SameItem{
            "openbookqa",
            R"({"question_stem": "It is", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"})",
            R"({"query": "It is", "choices": ["a", "b"], "gold": 0})"},
        SameItem{"boolq", R"({"passage": "Text.", "question": "is it", "answer": true})",
                 R"({"query": "Passage: Text.\nQuestion: is it?", "choices": ["no", "yes"], "gold": 1})"},
        SameItem{
            "copa",
            R"({"premise": "I slept.", "choice1": "A b.", "choice2": "C.", "question": "effect", "label": 0})",
            R"({"query": "I slept, therefore", "choices": ["a b.", "c."], "gold": 0})"},
        SameItem{"winogrande", R"({"sentence": "It _ is.", "option1": "a", "option2": "b", "answer": "2"})",
                 R"({"context_options": ["It a", "It b"], "continuation": "is.", "gold": 1})"},
        SameItem{"rte", R"({"premise": "P.", "hypothesis": "H.", "label": "not_entailment"})",
                 R"({"sentence1": "P.", "sentence2": "H.", "label": 1})"},
        SameItem{"lambada", R"({"text": "one two three"})",
                 R"({"context": "one two", "continuation": "three"})"},
        SameItem{"choices", R"({"query": "Q:", "choices": ["a", "b"], "gold": 1})",
                 R"({"query": "Q:", "choices": ["a", "b"], "gold": "1", "delimiter": " "})"}),
    [](const auto& test) { return test.param.format; });

TEST(Delimiter, OfOwnTasksMayBeAnything) {
  TempDir folder;
  const auto continuation = [&](const char* format, const char* line) {
    write_text(folder.path() / "lines.jsonl", line);
    return read_task(fmt::format("{}={}", format, (folder.path() / "lines.jsonl").string()), 0)
        .items.at(0)
        .continuations.at(0);
  };
  EXPECT_EQ(continuation("continuation", R"({"context": "don", "continuation": "'t"})"), " 't");
  EXPECT_EQ(continuation("continuation", R"({"context": "don", "continuation": "'t", "delimiter": ""})"),
            "'t");
  EXPECT_EQ(continuation("continuation", R"({"context": "a", "continuation": "b", "delimiter": "\n"})"),
            "\nb");
  EXPECT_EQ(continuation("continuation", R"({"context": "The sky is", "continuation": " blue"})"), " blue")
      << "no second space";
  EXPECT_EQ(
      continuation("continuation", R"({"context": "The sky is", "continuation": " blue", "delimiter": " "})"),
      "  blue");
  EXPECT_EQ(
      continuation("choices", R"({"contexts": ["a", "b"], "continuation": "c", "gold": 0, "delimiter": ""})"),
      "c");
}

struct BadLine {
  const char* format;
  const char* line;
  const char* message;
};
class BadLineTest : public ::testing::TestWithParam<BadLine> {};

TEST_P(BadLineTest, NamesLineAndField) {
  TempDir folder;
  const auto file = folder.path() / "bad.jsonl";
  write_text(file, std::string("\n") + GetParam().line + "\n");
  expect_error(ErrorKind::kBadInput,
               [&] { read_task(fmt::format("{}={}", GetParam().format, file.string()), 0); },
               {"bad.jsonl: line 2", GetParam().message});
}

INSTANTIATE_TEST_SUITE_P(
    Lines, BadLineTest,
    ::testing::Values(
        BadLine{"choices", R"({"query": "q", "choices": ["a"]})", "field \"gold\" is missing"},
        BadLine{"choices", R"({"choices": ["a"], "gold": 0})", "field \"query\" is missing"},
        BadLine{"choices", R"({"query": "q", "choices": [], "gold": 0})", "choices: found []"},
        BadLine{"choices", R"({"query": "q", "choices": ["a", 2], "gold": 0})",
                "choices[1]: found 2, expected a string"},
        BadLine{"choices", R"({"query": "q", "choices": ["a", "b"], "gold": 2})", "gold: found 2"},
        BadLine{"choices", R"({"query": "q", "choices": ["a", "b"], "gold": -1})", "gold: found -1"},
        BadLine{"choices", R"([1])", "found [1], expected an object"},
        BadLine{"choices", R"({"query": )", "not valid JSON"},
        BadLine{"piqa", R"({"goal": "g", "sol1": "a", "label": 0})", "field \"sol2\" is missing"},
        BadLine{"arc_easy",
                R"({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "C"})",
                "answerKey: found \"C\""},
        BadLine{"arc_easy",
                R"({"question": "q", "choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "A"})",
                "as many labels as texts"},
        BadLine{"copa", R"({"premise": "p.", "question": "why", "choice1": "a", "choice2": "b", "label": 0})",
                "question: found \"why\""},
        BadLine{"winogrande", R"({"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"})",
                "a sentence with a blank"},
        BadLine{"lambada", R"({"text": "one"})", "text: found \"one\""},
        BadLine{"rte", R"({"premise": "p", "hypothesis": "h", "label": "maybe"})",
                "label: found \"maybe\""}));

TEST(TasksTest, BadFiles) {
  TempDir folder;
  const auto file = (folder.path() / "x.jsonl").string();
  write_text(file, "{\"query\": \"\xff\"}\n");
  expect_error(ErrorKind::kBadInput, [&] { read_task(file, 0); }, {"x.jsonl", "0xff", "expected UTF-8"});
  write_text(file, " \n");
  expect_error(ErrorKind::kBadInput, [&] { read_task(file, 0); }, {"x.jsonl", "found no line"});
  expect_error(ErrorKind::kUsage, [&] { read_task("pica=" + file, 0); }, {"--task", "pica", "piqa"});
}

TEST(TasksTest, ChoicesThatDoNotFitOrAreEmpty) {
  TempDir folder;
  const auto model = Model::open(kData / "model");
  const auto tokenizer = Tokenizer::open(kData / "model");
  const auto backend = make_cpu_backend();
  const auto file = (folder.path() / "x.jsonl").string();
  std::string longest;
  for (int i = 0; i < 200; ++i) longest += " a";
  write_text(file, R"({"query": "q", "choices": ["a", ")" + longest + R"("], "gold": 0})");
  expect_error(
      ErrorKind::kBadInput,
      [&] { run_task(*model, *test::forwards_of(*model, *backend), *tokenizer, read_task(file, 0), {}); },
      {"x.jsonl: line 1", "found a choice of", "expected at most 160"});
  write_text(file, R"({"query": "q", "choices": [""], "gold": 0, "delimiter": ""})");
  expect_error(
      ErrorKind::kBadInput,
      [&] { run_task(*model, *test::forwards_of(*model, *backend), *tokenizer, read_task(file, 0), {}); },
      {"x.jsonl: line 1", "a choice without tokens"});
}

TEST(TasksTest, EmptyContextStartsWithBos) {
  TempDir folder;
  const auto model = Model::open(kData / "model");
  const auto tokenizer = Tokenizer::open(kData / "model");
  const auto backend = make_cpu_backend();
  const auto file = (folder.path() / "x.jsonl").string();
  write_text(file, R"({"query": "", "choices": ["a"], "gold": 0})");
  const TaskResult result =
      run_task(*model, *test::forwards_of(*model, *backend), *tokenizer, read_task(file, 0), {});
  std::vector<std::int32_t> ids = tokenizer->encode(" a", false);
  ids.insert(ids.begin(), *tokenizer->bos());
  const std::vector<std::vector<ScoredSequence>> items = {{{ids, 1}}};
  EXPECT_NEAR(
      result.items[0].log_probs[0],
      score_continuations(*model, *test::forwards_of(*model, *backend), items, {}).items[0][0].log_prob,
      1e-9);
}

// More tokens than a batch holds, so that ranks have something to share.
TEST(TaskRanks, FindTheNumbersOfOneProcess) {
  const auto model = Model::open(kData / "model");
  const auto backend = make_cpu_backend();
  const auto tokenizer = Tokenizer::open(kData / "model");
  Task task = read_task((kData / "piqa.jsonl").string(), 0);
  const std::vector<TaskItem> few = task.items;
  const Model* models[] = {model.get()};
  const auto forwards = make_cpu_text_forwards(models, *backend, {});
  const std::int64_t tokens = run_task(*model, *forwards, *tokenizer, task, {}).num_forwarded;
  for (std::int64_t all = tokens; all < kTaskBatchTokens + tokens; all += tokens)
    task.items.insert(task.items.end(), few.begin(), few.end());
  const TaskResult whole = run_task(*model, *forwards, *tokenizer, task, {});
  test::ThreadRanks(2).run([&](Communicator& ranks) {
    const auto own = make_cpu_text_forwards(models, *backend, {});
    const TaskResult found = run_task(*model, *own, *tokenizer, task, {}, ranks);
    ASSERT_EQ(found.items.size(), whole.items.size());
    for (std::size_t i = 0; i < found.items.size(); ++i)
      EXPECT_EQ(found.items[i].log_probs, whole.items[i].log_probs) << i;
    EXPECT_EQ(found.acc, whole.acc);
    EXPECT_EQ(found.num_forwarded, whole.num_forwarded);
  });
}

}  // namespace
}  // namespace swiftprune
