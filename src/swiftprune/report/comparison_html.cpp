#include <algorithm>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/report/comparison_page.h"
#include "swiftprune/report/numbers.h"
#include "swiftprune/report/page_style.h"

namespace swiftprune {
namespace {

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

std::string_view mood_name(Verdict::Mood mood) {
  return mood == Verdict::Mood::kGood ? "good" : mood == Verdict::Mood::kBad ? "bad" : "fair";
}

}  // namespace

ComparisonPage::ComparisonPage(const ComparisonReport& report) : report_(report) {
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

std::string ComparisonPage::build() {
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

// Perplexities of broken models run into the thousands.
std::string ComparisonPage::perplexity_text(double value) {
  if (value >= 1e6) return fmt::format("{:.2e}", value);
  return fmt::format("{:.{}f}", value, value >= 1000.0 ? 0 : value >= 100.0 ? 1 : 2);
}

bool ComparisonPage::has_decode() const {
  return any([](const ModelReport& model) { return model.decode_tokens_per_second.has_value(); });
}

bool ComparisonPage::has_first_blocks() const {
  return any([](const ModelReport& model) { return model.first_blocks_error.has_value(); });
}

void ComparisonPage::head() {
  const Verdict verdict = verdict_of(report_);
  put("<header>\n<h1>{}</h1>\n", escape(report_.title));
  put("<div class=\"verdict {}\"><strong>{}</strong>\n<p>{}</p>\n", mood_name(verdict.mood),
      escape(verdict.headline), escape(verdict.detail));
  if (!report_.gates.empty()) {
    put("<ul class=\"gates\">\n");
    for (const GateResult& gate : report_.gates) {
      put("<li class=\"{}\"><b>{}</b> {}: <code>{}</code> found {:.4f}, limit {:.4f}</li>\n",
          gate.passed ? "pass" : "fail", gate.passed ? "pass" : "FAIL", escape(gate.model), escape(gate.gate),
          gate.found, gate.limit);
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

void ComparisonPage::cell(std::string_view label, const std::string& value, const std::string& small) {
  put("<td class=\"num\" data-label=\"{}\">{}", label, value);
  if (!small.empty()) put("<small>{}</small>", small);
  put("</td>");
}

void ComparisonPage::model_row(const ModelReport& model) {
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

void ComparisonPage::model_table() {
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

void ComparisonPage::commands() {
  put("<h2>To repeat it</h2>\n");
  for (const std::string& command : report_.commands) put("<pre><code>{}</code></pre>\n", escape(command));
  words();
  put("<p class=\"quiet\">swiftprune {}, {}</p>\n", SWIFTPRUNE_VERSION, today());
}

void ComparisonPage::words() {
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

std::string to_html(const ComparisonReport& report) { return ComparisonPage(report).build(); }

}  // namespace swiftprune
