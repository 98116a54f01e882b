// The page's texts: where the models differ most, answers, refusals.
#include <algorithm>

#include "swiftprune/report/comparison_page.h"

namespace swiftprune {
namespace {

constexpr std::size_t kShownAnswers = 12;

// Tokens of spaces and line ends are to be seen.
std::string visible(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '\n' ? "↵" : c == '\t' ? "⇥" : std::string(1, c);
  const std::size_t first = result.find_first_not_of(' ');
  const std::size_t spaces = first == std::string::npos ? result.size() : first;
  std::string dots;
  for (std::size_t i = 0; i < spaces; ++i) dots += "·";
  return dots + result.substr(spaces);
}

std::string_view without_blanks(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(" \n"), text.size()));
}

// The answer with its part that is the dense model's set back.
std::string parted(const std::string& dense, const std::string& answer) {
  std::size_t common = static_cast<std::size_t>(
      std::mismatch(dense.begin(), dense.end(), answer.begin(), answer.end()).second - answer.begin());
  while (common > 0 && common < answer.size() && (answer[common] & 0xC0) == 0x80) --common;
  if (common == answer.size()) return fmt::format("<span class=\"same\">{}</span>", escape_html(answer));
  return fmt::format("<span class=\"same\">{}</span>{}", escape_html(answer.substr(0, common)),
                     escape_html(answer.substr(common)));
}

}  // namespace

void ComparisonPage::guesses(std::string_view title,
                             const std::vector<std::pair<std::string, double>>& tokens) {
  put("<div><h4>{}</h4><dl class=\"guess\">", title);
  for (const auto& [text, probability] : tokens) {
    put("<dt>{}</dt><dd>{}</dd>", escape(visible(text)), percent(probability));
  }
  put("</dl></div>");
}

void ComparisonPage::worst_tokens() {
  if (!any([](const ModelReport& m) { return !m.worst.empty(); })) return;
  put("<h2>Where the models differ most</h2>\n<p class=\"quiet\">The tokens with the largest divergence. "
      "The marked token "
      "is what the text goes on with; below, what each model expected in its place (· stands for a space, "
      "↵ for a "
      "line's end).</p>\n");
  for (const ModelReport& model : report_.models) {
    if (model.worst.empty()) continue;
    put("<details{}><summary>{}</summary>\n", &model == best_ ? " open" : " class=\"screen\"",
        escape(model.summary.name));
    for (const WorstExample& example : model.worst) {
      put("<div class=\"example\"><p>…{}<mark>{}</mark></p>\n<div class=\"sides\">",
          escape(without_blanks(example.before)), escape(visible(example.token)));
      guesses(fmt::format("dense ({} for the marked token)", percent(example.dense_probability)),
              example.dense);
      guesses(
          fmt::format("pruned ({}), divergence {:.2f} nats", percent(example.pruned_probability), example.kl),
          example.pruned);
      put("</div></div>\n");
    }
    put("</details>\n");
  }
}

void ComparisonPage::answer_sides(const Prompt& prompt, std::size_t i,
                                  std::optional<AnswerSet> ModelReport::*member, bool judged) {
  put("<div class=\"example\"><p><b>{}</b></p>\n<div class=\"sides\">", escape(prompt.text));
  for (std::size_t m = 0; m < report_.models.size(); ++m) {
    const ModelReport& model = report_.models[m];
    if (!(model.*member)) continue;
    const Answer& answer = (model.*member)->answers[i];
    const std::string tag = !judged ? "" : model.accepted[i] ? ", accepted" : ", not accepted";
    put("<div><h4>{}{}</h4><p>{}</p></div>", escape(m == 0 ? "dense" : model.summary.name), tag,
        m == 0 ? escape(answer.text) : parted((report_.models[0].*member)->answers[i].text, answer.text));
  }
  put("</div></div>\n");
}

void ComparisonPage::answers() {
  if (report_.prompts.empty()) return;
  put("<h2>Answers</h2>\n<p class=\"quiet\">Greedy, the same prompts. Marked: from where an answer parts "
      "from the dense "
      "model's.</p>\n<div class=\"scroll\"><table><thead><tr><th>Model</th><th class=\"num\">Same "
      "answer</th>"
      "<th class=\"num\">Tokens in common</th><th class=\"num\">Length</th><th "
      "class=\"num\">Repetition<small>4-grams</small></th><th class=\"num\">Loops</th>"
      "<th class=\"num\">Right<small>of the questions</small></th>"
      "</tr></thead>\n<tbody>\n");
  for (const ModelReport& model : report_.models) {
    if (!model.drift) continue;
    const GenerationDrift& d = *model.drift;
    put("<tr><th scope=\"row\">{}</th><td class=\"num\">{}</td><td class=\"num\">{:.1f}</td><td "
        "class=\"num\">{:.1f}"
        "<small>dense {:.1f}</small></td><td class=\"num\">{}<small>dense {}</small></td><td "
        "class=\"num\">{}"
        "<small>dense {}</small></td><td class=\"num\">{}</td></tr>\n",
        escape(model.summary.name), percent(d.identical), d.mean_common_tokens, d.mean_tokens,
        d.dense_mean_tokens, percent(d.repetition), percent(d.dense_repetition), percent(d.loops),
        percent(d.dense_loops),
        d.questions == 0
            ? std::string()
            : fmt::format("{} of {}<small>dense {}</small>", d.exact, d.questions, d.dense_exact));
  }
  put("</tbody></table></div>\n");
  for (std::size_t i = 0; i < std::min(report_.prompts.size(), kShownAnswers); ++i) {
    answer_sides(report_.prompts[i], i, &ModelReport::generation, false);
  }
  if (report_.prompts.size() > kShownAnswers) {
    put("<p class=\"quiet\">{} more prompts are in the JSON document (--json).</p>\n",
        report_.prompts.size() - kShownAnswers);
  }
}

void ComparisonPage::refusals() {
  if (report_.refusals.empty()) return;
  put("<h2>Refusals</h2>\n<p class=\"quiet\">Answers that match one of the patterns given as "
      "accepted.</p>\n"
      "<div class=\"scroll\"><table><thead><tr><th>Model</th><th class=\"num\">Accepted</th>"
      "<th class=\"num\">Changed against dense</th></tr></thead>\n<tbody>\n");
  const std::vector<bool>& dense = report_.models[0].accepted;
  for (const ModelReport& model : report_.models) {
    std::size_t changed = 0;
    for (std::size_t i = 0; i < dense.size(); ++i) changed += model.accepted[i] != dense[i] ? 1u : 0u;
    put("<tr><th scope=\"row\">{}</th><td class=\"num\">{} of {}</td><td class=\"num\">{}</td></tr>\n",
        escape(model.summary.name), std::count(model.accepted.begin(), model.accepted.end(), true),
        dense.size(), changed);
  }
  put("</tbody></table></div>\n");
  for (std::size_t i = 0; i < dense.size(); ++i) {
    const bool drifted = std::any_of(report_.models.begin(), report_.models.end(),
                                     [&](const ModelReport& m) { return m.accepted[i] != dense[i]; });
    if (drifted) answer_sides(report_.refusals[i], i, &ModelReport::refusal_answers, true);
  }
}

}  // namespace swiftprune
