// The lines of task files and the prompts made of them: those of lm-evaluation-harness, from the datasets'
// own fields or from lines that hold a query already ({"query", "choices", "gold"}).
#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/evaluation/tasks.h"
#include "swiftprune/text/json_lines.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kMaxChoices = 1000;

std::vector<std::string> strings(const JsonField& list) {
  std::vector<std::string> values;
  for (const JsonField& item : list.items()) values.push_back(item.string());
  if (values.empty() || std::ssize(values) > kMaxChoices) {
    list.unexpected(fmt::format("1 to {} strings", kMaxChoices));
  }
  return values;
}

// An index, also when it is written as a string ("1").
std::int64_t index(const JsonField& field, std::int64_t first, std::int64_t last) {
  if (!field.json().is_string()) return field.integer(first, last) - first;
  for (std::int64_t i = first; i <= last; ++i) {
    if (field.string() == std::to_string(i)) return i - first;
  }
  field.unexpected(fmt::format("an integer from {} to {}", first, last));
}

TaskItem choice_item(std::string context, const std::vector<std::string>& choices, std::int64_t gold,
                     std::string_view separator = " ") {
  TaskItem item;
  item.contexts = {std::move(context)};
  for (const std::string& choice : choices) {
    item.continuations.push_back(std::string(separator) + choice);
    item.lengths.push_back(text::num_code_points(choice));
  }
  item.gold = gold;
  return item;
}

TaskItem query_item(const JsonField& line, std::string context, std::string_view separator = " ",
                    std::string_view before_choice = "") {
  std::vector<std::string> texts = strings(line.at("choices"));
  for (std::string& text : texts) text.insert(0, before_choice);
  return choice_item(std::move(context), texts, index(line.at("gold"), 0, std::ssize(texts) - 1), separator);
}

// The text of {"query": ...} lines, without what the file's maker put before and after it.
std::string query(const JsonField& line, std::string_view prefix = "") {
  std::string_view text = line.at("query").string();
  if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  while (text.ends_with('\n')) text.remove_suffix(1);
  return std::string(text);
}

std::string stripped(std::string_view text) {
  std::size_t begin = 0, end = text.size();
  while (begin < end && text::is_whitespace(text::code_point_at(text, begin).value)) {
    begin += text::code_point_at(text, begin).bytes;
  }
  while (end > begin) {
    const std::size_t last = text::previous_boundary(text, end);
    if (!text::is_whitespace(text::code_point_at(text, last).value)) break;
    end = last;
  }
  return std::string(text.substr(begin, end - begin));
}

std::string with_first(const std::string& text, void (*first)(std::string&, char32_t),
                       void (*rest)(std::string&, char32_t)) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const text::CodePoint c = text::code_point_at(text, at);
    (at == 0 ? first : rest)(result, c.value);
    at += c.bytes;
  }
  return result;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

TaskItem read_piqa(const JsonField& line) {
  if (const auto goal = line.find("goal")) {
    return choice_item("Question: " + goal->string() + "\nAnswer:",
                       {line.at("sol1").string(), line.at("sol2").string()}, index(line.at("label"), 0, 1));
  }
  return query_item(line, query(line) + "\nAnswer:");
}

// {"choices": {"text": [...], "label": [...]}, "answerKey": "A"}
TaskItem labelled_item(const JsonField& line, std::string context) {
  const JsonField choices = line.at("choices");
  const std::vector<std::string> labels = strings(choices.at("label"));
  const std::vector<std::string> texts = strings(choices.at("text"));
  if (labels.size() != texts.size()) choices.unexpected("as many labels as texts");
  const JsonField key = line.at("answerKey");
  const auto gold = std::find(labels.begin(), labels.end(), stripped(key.string()));
  if (gold == labels.end()) key.unexpected("one of the labels");
  return choice_item(std::move(context), texts, gold - labels.begin());
}

TaskItem read_arc(const JsonField& line) {
  if (const auto question = line.find("question")) {
    return labelled_item(line, "Question: " + question->string() + "\nAnswer:");
  }
  return query_item(line, query(line) + "\nAnswer:");
}

TaskItem read_openbookqa(const JsonField& line) {
  if (const auto stem = line.find("question_stem")) return labelled_item(line, stem->string());
  return query_item(line, query(line));
}

TaskItem read_boolq(const JsonField& line) {
  if (const auto passage = line.find("passage")) {
    const auto label = line.find("label");
    const std::int64_t gold = label ? index(*label, 0, 1) : (line.at("answer").boolean() ? 1 : 0);
    return choice_item(passage->string() + "\nQuestion: " + line.at("question").string() + "?\nAnswer:",
                       {"no", "yes"}, gold);
  }
  return query_item(line, query(line, "Passage: ") + "\nAnswer:");
}

// The harness's task puts a space before each choice, to which its default separator adds another.
TaskItem read_copa(const JsonField& line) {
  if (const auto premise = line.find("premise")) {
    const JsonField question = line.at("question");
    const bool cause = question.string() == "cause";
    if (!cause && question.string() != "effect") question.unexpected("\"cause\" or \"effect\"");
    std::string context = stripped(premise->string());
    if (context.empty()) premise->unexpected("a sentence");
    context.resize(text::previous_boundary(context, context.size()));
    std::vector<std::string> choices;
    for (const char* key : {"choice1", "choice2"}) {
      choices.push_back(
          fmt::format(" {}", with_first(line.at(key).string(), text::append_lowercase, text::append_utf8)));
    }
    return choice_item(context + (cause ? " because" : " therefore"), choices, index(line.at("label"), 0, 1));
  }
  std::string context = query(line);
  for (const std::string_view word : {" because", " therefore"}) {
    const std::string comma = fmt::format(",{}", word);
    if (context.ends_with(comma)) context.erase(context.size() - comma.size(), 1);
  }
  return query_item(line, context, " ", " ");
}

// The markup of HellaSwag's WikiHow part.
std::string without_markup(const std::string& raw) {
  std::string text = stripped(raw);
  replace_all(text, " [title]", ". ");
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text[at] == '[' ? text.find_first_of("]\n", at) : std::string::npos;
    if (end != std::string::npos && text[end] == ']') {
      at = end + 1;
    } else {
      result += text[at++];
    }
  }
  replace_all(result, "  ", " ");
  return result;
}

TaskItem read_hellaswag(const JsonField& line) {
  if (const auto start = line.find("ctx_a")) {
    const std::string rest =
        with_first(line.at("ctx_b").string(), text::append_titlecase, text::append_lowercase);
    std::vector<std::string> endings;
    for (const std::string& ending : strings(line.at("endings"))) endings.push_back(without_markup(ending));
    return choice_item(
        without_markup(line.at("activity_label").string() + ": " + start->string() + " " + rest), endings,
        index(line.at("label"), 0, std::ssize(endings) - 1));
  }
  return query_item(line, line.at("query").string());
}

// What own tasks put between context and continuation: one space unless they say otherwise, also nothing.
std::string delimiter(const JsonField& line) { return line.string_if("delimiter").value_or(" "); }

// The line's continuation with what stands before it: a line that does not say so, and whose continuation
// brings white space of its own, gets no second space.
std::string continuation(const JsonField& line) {
  const std::string& text = line.at("continuation").string();
  const bool is_set_apart = !text.empty() && text::is_whitespace(text::code_point_at(text, 0).value);
  return (is_set_apart && !line.find("delimiter") ? "" : delimiter(line)) + text;
}

// The same continuation after each of several contexts.
TaskItem contexts_item(std::vector<std::string> contexts, std::string continuation, std::int64_t gold) {
  TaskItem item;
  item.continuations = {std::move(continuation)};
  for (const std::string& context : contexts) item.lengths.push_back(text::num_code_points(context));
  item.contexts = std::move(contexts);
  item.gold = gold;
  return item;
}

TaskItem read_contexts(const JsonField& line, const char* key) {
  std::vector<std::string> contexts = strings(line.at(key));
  const std::int64_t gold = index(line.at("gold"), 0, std::ssize(contexts) - 1);
  return contexts_item(std::move(contexts), continuation(line), gold);
}

TaskItem read_winogrande(const JsonField& line) {
  if (line.find("context_options")) return read_contexts(line, "context_options");
  const JsonField sentence = line.at("sentence");
  const std::size_t blank = sentence.string().find('_');
  if (blank == std::string::npos) sentence.unexpected("a sentence with a blank (_)");
  std::vector<std::string> contexts;
  for (const char* key : {"option1", "option2"}) {
    contexts.push_back(sentence.string().substr(0, blank) + line.at(key).string());
  }
  return contexts_item(std::move(contexts), fmt::format(" {}", stripped(sentence.string().substr(blank + 1))),
                       index(line.at("answer"), 1, 2));
}

TaskItem read_rte(const JsonField& line) {
  if (line.find("query")) return query_item(line, query(line));
  const bool glue = line.find("sentence1").has_value();
  const std::string premise = line.at(glue ? "sentence1" : "premise").string();
  const std::string hypothesis = line.at(glue ? "sentence2" : "hypothesis").string();
  const JsonField label = line.at("label");
  const bool named = label.json() == "entailment" || label.json() == "not_entailment";
  const std::int64_t gold = named ? (label.json() == "entailment" ? 0 : 1) : index(label, 0, 1);
  return choice_item(premise + "\nQuestion: " + hypothesis + " True or False?\nAnswer:", {"True", "False"},
                     gold);
}

TaskItem continuation_item(std::string context, std::string continuation) {
  TaskItem item;
  item.lengths = {text::num_code_points(continuation)};
  item.contexts = {std::move(context)};
  item.continuations = {std::move(continuation)};
  return item;
}

TaskItem read_continuation(const JsonField& line) {
  return continuation_item(line.at("context").string(), continuation(line));
}

TaskItem read_lambada(const JsonField& line) {
  const auto field = line.find("text");
  if (!field) return read_continuation(line);
  const std::string& text = field->string();
  const std::size_t last = text.rfind(' ');
  if (last == std::string::npos) field->unexpected("words with spaces between them");
  return continuation_item(text.substr(0, last), text.substr(last));
}

TaskItem read_choices(const JsonField& line) {
  if (line.find("contexts")) return read_contexts(line, "contexts");
  return query_item(line, line.at("query").string(), delimiter(line));
}

constexpr std::array kFormats = {
    TaskFormat{"piqa", true, read_piqa, "everyday physics, 2 choices"},
    TaskFormat{"arc_easy", true, read_arc, "school science, easy part, up to 5 choices"},
    TaskFormat{"arc_challenge", true, read_arc, "school science, hard part, up to 5 choices"},
    TaskFormat{"openbookqa", true, read_openbookqa, "science facts, 4 choices"},
    TaskFormat{"boolq", true, read_boolq, "yes or no about a passage"},
    TaskFormat{"copa", true, read_copa, "cause or effect, 2 choices"},
    TaskFormat{"hellaswag", true, read_hellaswag, "how a scene goes on, 4 choices"},
    TaskFormat{"winogrande", true, read_winogrande, "whom a pronoun means, 2 contexts"},
    TaskFormat{"rte", true, read_rte, "does a sentence follow from another"},
    TaskFormat{"lambada", false, read_lambada, "the last word of a passage"},
    TaskFormat{"choices", true, read_choices, "own multiple choice: query, choices, gold"},
    TaskFormat{"continuation", false, read_continuation, "own text to continue: context, continuation"},
};

// Names of files that are not the format's own.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"openbook_qa", "openbookqa"}, {"lambada_openai", "lambada"}, {"lambada_standard", "lambada"}};

const TaskFormat* find_format(std::string_view name) {
  for (const auto& [alias, format] : kAliases) {
    if (name == alias) name = format;
  }
  const auto it =
      std::find_if(kFormats.begin(), kFormats.end(), [&](const TaskFormat& f) { return f.name == name; });
  return it == kFormats.end() ? nullptr : &*it;
}

}  // namespace

std::span<const TaskFormat> task_formats() { return kFormats; }

Task read_task(const std::string& spec, std::int64_t max_items) {
  const std::size_t equals = spec.find('=');
  const bool named = equals != std::string::npos && spec.find('/') > equals;
  const std::filesystem::path file = named ? spec.substr(equals + 1) : spec;
  Task task{file.stem().string(), nullptr, {}};
  task.format = find_format(named ? spec.substr(0, equals) : task.name);
  if (task.format == nullptr && named) {
    std::vector<std::string_view> names;
    for (const TaskFormat& format : kFormats) names.push_back(format.name);
    bad_usage("--task: found the format '{}', expected one of {}", spec.substr(0, equals),
              fmt::join(names, ", "));
  }
  if (task.format == nullptr) task.format = find_format("choices");
  for (const JsonLine& line : read_json_lines(file)) {
    if (max_items > 0 && std::ssize(task.items) == max_items) break;
    task.items.push_back(task.format->read(JsonField(line.value, line.where)));
    task.items.back().where = line.where;
  }
  return task;
}

}  // namespace swiftprune
