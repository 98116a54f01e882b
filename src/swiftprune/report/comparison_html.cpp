// The report page: one file, no scripts, no network. Everything that comes from files or users is escaped.
#include <algorithm>
#include <cmath>
#include <map>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/report/comparison.h"
#include "swiftprune/report/numbers.h"
#include "swiftprune/report/page_style.h"
#include "swiftprune/report/svg.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

std::string escape(std::string_view text) { return escape_html(text); }

std::string percent(double share) { return fmt::format("{:.1f} %", 100.0 * share); }

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

// Perplexities of broken models run into the thousands.
std::string perplexity_text(double value) {
  if (value >= 1e6) return fmt::format("{:.2e}", value);
  return fmt::format("{:.{}f}", value, value >= 1000.0 ? 0 : value >= 100.0 ? 1 : 2);
}

std::string_view mood_name(Verdict::Mood mood) {
  return mood == Verdict::Mood::kGood ? "good" : mood == Verdict::Mood::kBad ? "bad" : "fair";
}

class Page {
 public:
  explicit Page(const ComparisonReport& report) : report_(report) {
    for (const ModelReport& model : report.models) {
      const bool chosen = model.summary.name == report.recommended;
      if (chosen) best_ = &model;
      if (!report.recommended.empty()) continue;
      const bool better =
          model.divergence && !model.few_bits &&
          (best_ == nullptr || model.divergence->perplexity_ratio < best_->divergence->perplexity_ratio);
      if (better) best_ = &model;
    }
  }

  std::string build() {
    html_ = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
        escape(report_.title), kPageStyle);
    head();
    model_table();
    sizes();
    curve();
    blocks();
    masks();
    stages();
    worst_tokens();
    answers();
    refusals();
    commands();
    return html_ + "</main>\n</body>\n</html>\n";
  }

 private:
  template <class... Args>
  void put(fmt::format_string<Args...> format, Args&&... args) {
    html_ += fmt::format(format, std::forward<Args>(args)...);
  }
  ChartText chart(std::string title, std::string description) {
    return {fmt::format("chart{}", ++num_charts_), std::move(title), std::move(description)};
  }
  bool any(bool (*has)(const ModelReport&)) const {
    return std::any_of(report_.models.begin(), report_.models.end(), has);
  }

  bool has_decode() const {
    return any([](const ModelReport& model) { return model.decode_tokens_per_second.has_value(); });
  }

  bool has_first_blocks() const {
    return any([](const ModelReport& model) { return model.first_blocks_error.has_value(); });
  }

  void head() {
    const Verdict verdict = verdict_of(report_);
    put("<header>\n<h1>{}</h1>\n", escape(report_.title));
    put("<div class=\"verdict {}\"><strong>{}</strong>\n<p>{}</p>\n", mood_name(verdict.mood),
        escape(verdict.headline), escape(verdict.detail));
    if (!report_.gates.empty()) {
      put("<ul class=\"gates\">\n");
      for (const GateResult& gate : report_.gates) {
        put("<li class=\"{}\"><b>{}</b> {}: <code>{}</code> found {:.4f}, limit {:.4f}</li>\n",
            gate.passed ? "pass" : "fail", gate.passed ? "pass" : "FAIL", escape(gate.model),
            escape(gate.gate), gate.found, gate.limit);
      }
      put("</ul>\n");
    }
    put("</div>\n");
    if (report_.recommendation) {
      put("<p>Recommended:</p>\n<pre><code>{}</code></pre>\n", escape(*report_.recommendation));
    }
    if (!report_.text.empty()) {
      const auto& measured = report_.models[0].perplexity;
      put("<p>Measured on <b>{}</b>: {} tokens, {}, products in {}, {} ({}, {} threads).</p>\n",
          escape(report_.text), measured ? measured->num_tokens : 0, escape(report_.convention),
          escape(report_.compute), escape(cpu_model_name()), escape(isa_name()), num_threads());
    }
    const std::int64_t parameters = report_.models[0].summary.num_parameters;
    put("<p>The dense model has {} parameters{}.</p>\n",
        parameters < 1'000'000 ? fmt::format("{}", parameters)
                               : fmt::format("{:.1f} million", static_cast<double>(parameters) / 1e6),
        report_.max_perplexity_ratio
            ? fmt::format("; the limit is {:.2f} times its perplexity", *report_.max_perplexity_ratio)
            : "");
    for (const std::string& note : report_.notes) put("<p>{}</p>\n", escape(note));
    put("</header>\n");
  }

  void cell(std::string_view label, const std::string& value, const std::string& small = "") {
    put("<td class=\"num\" data-label=\"{}\">{}", label, value);
    if (!small.empty()) put("<small>{}</small>", small);
    put("</td>");
  }

  void model_row(const ModelReport& model) {
    const ModelSummary& s = model.summary;
    put("<tr{}><th scope=\"row\">{}</th><td data-label=\"Method\">{}<small>{}</small></td>",
        &model == best_ && report_.models.size() > 2 ? " class=\"best\"" : "", escape(s.name),
        escape(steps_text(s)), escape(s.pattern));
    cell("Zeros", percent(s.sparsity));
    if (has_first_blocks()) cell("First blocks' error", number(model.first_blocks_error, 4));
    std::string small = model.packed_bytes ? "packed " + megabytes(*model.packed_bytes) : "";
    if (!report_.equal_bytes.empty())
      small += fmt::format("{}{:.2f} bits a weight", small.empty() ? "" : "<br>", s.bits_per_weight);
    cell("Size", megabytes(s.num_bytes), small);
    if (!report_.text.empty()) {
      cell("Perplexity", model.perplexity ? perplexity_text(model.perplexity->perplexity) : "–",
           model.bits_per_byte ? fmt::format("{:.3f} bits a byte", *model.bits_per_byte) : "");
      const auto& d = model.divergence;
      const auto of = [&](const auto& text) { return d ? text(*d) : std::string("–"); };
      cell("Ratio", of([](const Divergence& v) { return short_number(v.perplexity_ratio) + " ×"; }),
           d && d->ratio_interval
               ? short_number(d->ratio_interval->low) + " – " + short_number(d->ratio_interval->high)
               : "");
      cell("Divergence, nats", of([](const Divergence& v) { return short_number(v.mean_kl); }),
           d ? "p99 " + short_number(d->p99_kl) : "");
      cell("Same top", of([](const Divergence& v) { return percent(v.top1); }));
      if (!report_.is_pilot) cell("Forward, tokens/s", number(model.forward_tokens_per_second, 0));
    }
    if (has_decode()) cell("Decode, tokens/s", number(model.decode_tokens_per_second, 1));
    put("</tr>\n");
  }

  void model_table() {
    put("<h2>Models</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Models\"><table "
        "class=\"cards\">\n"
        "<thead><tr><th>Model</th><th>Method<small>pattern</small></th><th class=\"num\">Zeros<small>of the "
        "linears</small></th>");
    if (has_first_blocks()) put("<th class=\"num\">First blocks<small>error</small></th>");
    put("<th class=\"num\">Size</th>");
    if (!report_.text.empty()) {
      put("<th class=\"num\">Perplexity</th><th class=\"num\">Ratio<small>95 % interval</small></th>"
          "<th class=\"num\">Divergence<small>nats a token</small></th><th class=\"num\">Same "
          "top<small>token</small></th>"
          "{}",
          report_.is_pilot ? "" : "<th class=\"num\">Forward<small>tokens/s</small></th>");
    }
    if (has_decode()) put("<th class=\"num\">Decode<small>tokens/s</small></th>");
    put("</tr></thead>\n<tbody>\n");
    for (const ModelReport& model : report_.models) model_row(model);
    put("</tbody></table></div>\n");
  }

  void curve() {
    const auto pruned = std::count_if(report_.models.begin(), report_.models.end(),
                                      [](const ModelReport& m) { return m.divergence && !m.few_bits; });
    if (pruned < 2) return;  // one point says what the table says
    std::vector<ChartSeries> series;
    std::map<std::string, std::size_t> index;
    std::string description;
    for (const ModelReport& model : report_.models) {
      if (!model.divergence || model.few_bits) continue;
      const ModelSummary& s = model.summary;
      // A line joins the sparsities of one method and one kind of pattern.
      const bool plain = s.pattern == "unstructured" || s.pattern == "dense";
      const std::string of_pattern = plain ? "" : ", " + s.pattern;
      const std::string name = s.method.empty() ? s.name : s.method + of_pattern;
      const std::string label = fmt::format("{}: {} zeros, perplexity {}", s.name, percent(s.sparsity),
                                            perplexity_text(model.perplexity->perplexity));
      const auto [it, is_new] = index.try_emplace(name, series.size());
      if (is_new) series.push_back({name, {}});
      series[it->second].points.push_back(
          {100.0 * s.sparsity, model.perplexity->perplexity, label, &model == best_});
      description += label + ". ";
    }
    for (ChartSeries& s : series) {
      std::stable_sort(s.points.begin(), s.points.end(),
                       [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
    }
    const double dense = report_.models[0].perplexity->perplexity;
    put("<h2>Sparsity and perplexity</h2>\n<p class=\"quiet\">Lower is better; the perplexity axis is "
        "logarithmic.{}</p>\n<figure>\n{}</figure>\n",
        best_ == nullptr || best_->few_bits ? ""
        : report_.recommended.empty()       ? " A ring marks the best model."
                                            : " A ring marks the recommended model.",
        curve_chart(
            chart("Perplexity by share of zero weights",
                  fmt::format("Dense model: perplexity {}. {}", perplexity_text(dense), description)),
            series, {"zero weights of the linears", " %", true}, "perplexity",
            ChartPoint{100.0 * report_.models[0].summary.sparsity, dense, "dense " + perplexity_text(dense)},
            limit_line(dense)));
  }

  std::optional<ChartPoint> limit_line(double dense) const {
    if (!report_.max_perplexity_ratio) return std::nullopt;
    const double limit = *report_.max_perplexity_ratio * dense;
    return ChartPoint{0.0, limit, "limit " + perplexity_text(limit)};
  }

  // What no other model is both smaller and nearer to the dense one than, the smallest first.
  std::vector<const ModelReport*> pareto() const {
    std::vector<const ModelReport*> models;
    for (const ModelReport& model : report_.models) {
      if (model.divergence) models.push_back(&model);
    }
    std::stable_sort(models.begin(), models.end(), [](const ModelReport* a, const ModelReport* b) {
      return a->stored_bytes() < b->stored_bytes();
    });
    std::vector<const ModelReport*> line;
    for (const ModelReport* model : models) {
      if (line.empty() || model->divergence->mean_kl < line.back()->divergence->mean_kl)
        line.push_back(model);
    }
    return line;
  }

  void sizes() {
    if (report_.text.empty() || !any([](const ModelReport& model) { return model.few_bits; })) return;
    static constexpr double kLeast = 1e-6;  // of the logarithmic axis
    const auto point = [this](const ModelReport& model) {
      const double kl = std::max(kLeast, model.divergence->mean_kl);
      const double size = static_cast<double>(model.stored_bytes()) / 1e6;
      return ChartPoint{
          size, kl, fmt::format("{}: {:.1f} MB, divergence {}", model.summary.name, size, short_number(kl)),
          model.summary.name == report_.recommended};
    };
    std::vector<ChartSeries> series = {{"Pareto line", {}}};
    for (const ModelReport* model : pareto()) series[0].points.push_back(point(*model));
    std::string description;
    for (const bool few_bits : {false, true}) {
      for (const ModelReport& model : report_.models) {
        if (!model.divergence || model.few_bits != few_bits) continue;
        const std::string name = report_.is_pilot ? (few_bits ? "fewer bits" : model.summary.method)
                                 : few_bits       ? "dense, " + model.summary.method
                                                  : model.summary.name;
        auto own =
            std::find_if(series.begin(), series.end(), [&](const ChartSeries& s) { return s.name == name; });
        if (own == series.end()) own = series.insert(own, {name, {}});
        own->points.push_back(point(model));
        description += own->points.back().label + ". ";
      }
    }
    for (ChartSeries& one : series) {
      std::stable_sort(one.points.begin(), one.points.end(),
                       [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
    }
    put("<h2>Size and divergence</h2>\n<p class=\"quiet\">Nearer to the lower left corner is better; the "
        "divergence axis is logarithmic. Models below and left of the Pareto line there are none.</p>\n"
        "<figure>\n{}</figure>\n",
        curve_chart(chart("Divergence by size", description), series, {"size of the model", " MB", false},
                    "divergence, nats", std::nullopt));
    if (report_.equal_bytes.empty()) return;
    put("<ul>\n");
    for (const EqualBytes& equal : report_.equal_bytes) put("<li>{}</li>\n", escape(equal.line()));
    put("</ul>\n");
  }

  // Of all models, so that their charts have one scale.
  double largest_error(double BlockError::*member) const {
    double largest = 0.0;
    for (const ModelReport& model : report_.models) {
      if (!model.block_errors) continue;
      for (const BlockError& error : *model.block_errors) largest = std::max(largest, error.*member);
    }
    return largest;
  }

  void block_figures(const ModelReport& model) {
    const std::vector<double>& sparsity = model.summary.block_sparsity;
    const bool folded = report_.is_pilot && &model != best_;
    if (folded) {
      put("<details class=\"screen\"><summary>{}</summary>\n", escape(model.summary.name));
    } else {
      put("<h3>{}</h3>\n", escape(model.summary.name));
    }
    const auto [least, most] = std::minmax_element(sparsity.begin(), sparsity.end());
    const bool alike = sparsity.empty() || *most - *least < 0.005;
    if (alike && !sparsity.empty()) put("<p>{} zeros in every block.</p>\n", percent(*most));
    put("<div class=\"grid\">\n");
    if (!alike) {
      put("<figure><figcaption>Zero weights</figcaption>{}</figure>\n",
          block_bars(chart("Share of zero weights of each block", "Values are in the table below."), sparsity,
                     1.0, "sparsity", true));
    }
    if (model.block_errors) {
      std::vector<double> own, total;
      for (const BlockError& error : *model.block_errors) {
        own.push_back(error.own);
        total.push_back(error.total);
      }
      put("<figure><figcaption>Error that the block adds by itself</figcaption>{}</figure>\n",
          block_bars(
              chart("Own error of each block", "Relative squared error; values are in the table below."), own,
              axis_end(largest_error(&BlockError::own)), "own", false));
      put("<figure><figcaption>Error of the hidden states after the block</figcaption>{}</figure>\n",
          block_bars(
              chart("Error after each block", "Relative squared error; values are in the table below."),
              total, axis_end(largest_error(&BlockError::total)), "total", false));
    }
    put("</div>\n<details><summary>Values as a table</summary><div "
        "class=\"scroll\"><table>\n<thead><tr><th>Block</th>"
        "<th class=\"num\">Zeros</th><th class=\"num\">Own error</th><th class=\"num\">Error after</th>"
        "<th>Largest error of a linear</th></tr></thead>\n<tbody>\n");
    for (std::size_t i = 0; i < sparsity.size(); ++i) {
      put("<tr><th scope=\"row\">{}</th><td class=\"num\">{}</td>", i, percent(sparsity[i]));
      if (model.block_errors) {
        const BlockError& error = (*model.block_errors)[i];
        const auto largest =
            std::max_element(error.linears.begin(), error.linears.end(),
                             [](const LinearError& a, const LinearError& b) { return a.error < b.error; });
        put("<td class=\"num\">{:.4f}</td><td class=\"num\">{:.4f}</td><td>{}</td></tr>\n", error.own,
            error.total,
            largest == error.linears.end() ? "–"
                                           : fmt::format("{:.4f} {}", largest->error, escape(largest->name)));
      } else {
        put("<td class=\"num\">–</td><td class=\"num\">–</td><td>–</td></tr>\n");
      }
    }
    put("</tbody></table></div></details>\n{}", folded ? "</details>\n" : "");
  }

  void blocks() {
    const auto has_figures = [this](const ModelReport& model) {
      return &model != &report_.models[0] && !model.few_bits;
    };
    if (std::ranges::none_of(report_.models, has_figures)) return;
    put("<h2>Block by block</h2>\n<p class=\"quiet\">Errors are squared and relative: the block's own one to "
        "what the "
        "block contributes, given the dense model's hidden states; the other to the hidden states "
        "themselves, with "
        "all that came before. Charts of one kind have one scale.</p>\n");
    for (const ModelReport& model : report_.models) {
      if (has_figures(model)) block_figures(model);
    }
  }

  void mask_figure(const ModelReport& model, const MaskPicture& mask) {
    double kept = 0.0;
    for (const float value : mask.density.values())
      kept += double{value} / static_cast<double>(mask.density.numel());
    const std::string what = fmt::format("{} of {}", mask.tensor, model.summary.name);
    const std::string share =
        fmt::format("About {} of the weights are kept; pattern {}.", percent(kept), model.summary.pattern);
    const std::string corner = mask_corner(chart("Kept weights in the corner of " + what, share), mask);
    // Of N:M every cell is the same.
    const bool is_n_m = model.summary.pattern.find(':') != std::string::npos;
    const std::string density =
        is_n_m ? std::string() : mask_density(chart("Density of " + what, share), mask);
    put("<figure><figcaption>{}, {}</figcaption><div class=\"pair\">{}{}</div></figure>\n",
        escape(model.summary.name), escape(model.summary.pattern), corner, density);
  }

  void masks() {
    std::vector<std::string> tensors;
    for (const ModelReport& model : report_.models) {
      for (const MaskPicture& mask : model.masks) {
        if (std::find(tensors.begin(), tensors.end(), mask.tensor) == tensors.end())
          tensors.push_back(mask.tensor);
      }
    }
    if (tensors.empty()) return;
    put("<div class=\"screen\"><h2>Where the zeros are</h2>\n<p class=\"quiet\">Left, weight by weight, the "
        "first {} outputs "
        "(down) and inputs "
        "(across); right the whole matrix, each cell as strong as the share of weights that are kept "
        "there.</p>\n",
        kMaskCorner);
    for (const std::string& tensor : tensors) {
      put("<details class=\"screen\"><summary><code>{}</code></summary>\n<div class=\"grid\">\n",
          escape(tensor));
      for (const ModelReport& model : report_.models) {
        for (const MaskPicture& mask : model.masks) {
          if (mask.tensor == tensor) mask_figure(model, mask);
        }
      }
      put("</div></details>\n");
    }
    put("</div>\n");
  }

  // Those that can be seen in some model's bar, in the order in which they come; the others are "other", the last.
  std::vector<std::string> visible_stages() const {
    constexpr double kVisible = 0.02;
    std::vector<std::string> stages;
    for (const ModelReport& model : report_.models) {
      double total = 0.0;
      for (const auto& [stage, value] : model.summary.stage_seconds) total += value;
      for (const auto& [stage, value] : model.summary.stage_seconds) {
        if (stage != kOtherStage && value >= kVisible * total &&
            std::find(stages.begin(), stages.end(), stage) == stages.end())
          stages.push_back(stage);
      }
    }
    stages.emplace_back(kOtherStage);
    return stages;
  }

  void stages() {
    const std::vector<std::string> stages = visible_stages();
    std::vector<StageBar> bars;
    std::string description;
    for (const ModelReport& model : report_.models) {
      if (model.summary.stage_seconds.empty()) continue;
      StageBar bar{model.summary.name, std::vector<double>(stages.size(), 0.0)};
      description += model.summary.name + ": ";
      for (const auto& [stage, value] : model.summary.stage_seconds) {
        const auto found = std::find(stages.begin(), stages.end(), stage) - stages.begin();
        bar.seconds[std::min(static_cast<std::size_t>(found), stages.size() - 1)] += value;
        description += fmt::format("{} {} s, ", stage, short_number(value));
      }
      bars.push_back(std::move(bar));
    }
    if (bars.empty()) return;
    put("<h2>Time to prune</h2>\n<p class=\"quiet\">Seconds of each stage, as each run recorded them on its "
        "machine.</p>\n"
        "<figure>\n{}</figure>\n",
        stage_bars(chart("Seconds of each stage", description), stages, bars));
  }

  void guesses(std::string_view title, const std::vector<std::pair<std::string, double>>& tokens) {
    put("<div><h4>{}</h4><dl class=\"guess\">", title);
    for (const auto& [text, probability] : tokens) {
      put("<dt>{}</dt><dd>{}</dd>", escape(visible(text)), percent(probability));
    }
    put("</dl></div>");
  }

  // Tokens of spaces and line ends are to be seen.
  static std::string visible(const std::string& text) {
    std::string result;
    for (const char c : text) result += c == '\n' ? "↵" : c == '\t' ? "⇥" : std::string(1, c);
    const std::size_t first = result.find_first_not_of(' ');
    const std::size_t spaces = first == std::string::npos ? result.size() : first;
    std::string dots;
    for (std::size_t i = 0; i < spaces; ++i) dots += "·";
    return dots + result.substr(spaces);
  }

  static std::string_view without_blanks(std::string_view text) {
    return text.substr(std::min(text.find_first_not_of(" \n"), text.size()));
  }

  void worst_tokens() {
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
        guesses(fmt::format("pruned ({}), divergence {:.2f} nats", percent(example.pruned_probability),
                            example.kl),
                example.pruned);
        put("</div></div>\n");
      }
      put("</details>\n");
    }
  }

  // The answer with its part that is the dense model's set back.
  static std::string parted(const std::string& dense, const std::string& answer) {
    std::size_t common = static_cast<std::size_t>(
        std::mismatch(dense.begin(), dense.end(), answer.begin(), answer.end()).second - answer.begin());
    while (common > 0 && common < answer.size() && (answer[common] & 0xC0) == 0x80) --common;
    if (common == answer.size()) return fmt::format("<span class=\"same\">{}</span>", escape(answer));
    return fmt::format("<span class=\"same\">{}</span>{}", escape(answer.substr(0, common)),
                       escape(answer.substr(common)));
  }

  void answer_sides(const Prompt& prompt, std::size_t i, std::optional<AnswerSet> ModelReport::*member,
                    bool judged) {
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

  void answers() {
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

  void refusals() {
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

  void commands() {
    put("<h2>To repeat it</h2>\n");
    for (const std::string& command : report_.commands) put("<pre><code>{}</code></pre>\n", escape(command));
    words();
    put("<p class=\"quiet\">swiftprune {}, {}</p>\n", SWIFTPRUNE_VERSION, today());
  }

  void words() {
    put("<details><summary>What the words mean</summary><dl class=\"words\">\n");
    const auto word = [this](std::string_view name, std::string_view text) {
      put("<dt>{}</dt><dd>{}</dd>\n", name, text);
    };
    word("Perplexity",
         "How many tokens the model hesitates between, so to speak: e to the mean loss. Lower is better.");
    word("Ratio",
         "The model's perplexity over the dense model's; the interval holds it in 95 of 100 texts of this "
         "kind.");
    word("Divergence",
         "How far the model's expectation of the next token is from the dense model's (KL), a token in the "
         "mean, in "
         "nats: 0 is the same, 0.1 is noticeable, 1 is another model. p99: 99 of 100 tokens are below.");
    word("Same top", "The share of tokens at which both models hold the same token for the likeliest.");
    word("Bits a byte", "The loss in bits over the text's bytes: comparable between tokenizers.");
    word("Zeros", "The share of the linears' weights that are zero.");
    word("Error",
         "Of a block's or linear's outputs: the squared difference from the dense model's over its square.");
    put("</dl></details>\n");
  }

  static constexpr std::size_t kShownAnswers = 12;
  static constexpr std::string_view kOtherStage = "other";  // as records name what is no stage
  const ComparisonReport& report_;
  const ModelReport* best_ = nullptr;
  std::string html_;
  int num_charts_ = 0;
};

}  // namespace

std::string to_html(const ComparisonReport& report) { return Page(report).build(); }

}  // namespace swiftprune
