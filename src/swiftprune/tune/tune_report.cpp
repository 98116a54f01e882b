#include "swiftprune/tune/tune_report.h"

#include <algorithm>

#include "swiftprune/report/numbers.h"
#include "swiftprune/report/page_style.h"
#include "swiftprune/report/svg.h"
#include "swiftprune/tune/parameter_trials.h"

namespace swiftprune {
namespace {

constexpr double kLeastKl = 1e-6;  // of the logarithmic axis

nlohmann::ordered_json to_json(const TunePoint& point) {
  nlohmann::ordered_json item = {{"name", point.name}};
  if (point.ratio) {
    item["ratio"] = *point.ratio;
  } else {
    item.update({{"sparsity", point.sparsity}, {"bits_per_weight", point.bits}});
  }
  item.update({{"bytes", static_cast<std::int64_t>(point.bytes)}, {"search_kl", point.search_kl}});
  item["check_kl"] = point.check_kl ? nlohmann::ordered_json(*point.check_kl) : nullptr;
  if (point.tokens_per_second) item["tokens_per_second"] = *point.tokens_per_second;
  return item;
}

std::string kl_text(const std::optional<double>& kl) { return kl ? fmt::format("{:.4f}", *kl) : "–"; }

double check_or_search(const TunePoint& point) { return point.check_kl.value_or(point.search_kl); }

std::string speed_cell(const TunePoint& point) {
  if (!point.tokens_per_second) return {};
  return fmt::format("<td class=\"num\" data-label=\"Tokens/s\">{:.1f}</td>", *point.tokens_per_second);
}

std::string number_cell(std::string_view label, const std::string& text) {
  return fmt::format("<td class=\"num\" data-label=\"{}\">{}</td>", label, text);
}

std::string row(const TunePoint& point, bool best) {
  const std::string what = point.ratio
                               ? number_cell("Gone", fmt::format("{:.1f} %", 100.0 * *point.ratio))
                               : number_cell("Zeros", fmt::format("{:.1f} %", 100.0 * point.sparsity)) +
                                     number_cell("Bits a weight", fmt::format("{:.2f}", point.bits));
  return fmt::format(
      "<tr{}><th scope=\"row\">{}</th>{}{}{}{}{}</tr>\n", best ? " class=\"best\"" : "",
      escape_html(point.name), what,
      number_cell(point.ratio ? "Size" : "Packed", fmt::format("{:.1f} MB", point.bytes / 1e6)),
      number_cell("Divergence, search", fmt::format("{:.4f}", point.search_kl)),
      number_cell("Divergence, check", kl_text(point.check_kl)), speed_cell(point));
}

std::string chart(const TuneReport& report) {
  const auto at = [](const TunePoint& point, double kl) {
    return ChartPoint{point.bytes / 1e6, std::max(kLeastKl, kl), point.name};
  };
  ChartSeries check{"check text", {}}, search{"search text", {}}, start{"start", {}};
  std::string description;
  for (const TunePoint& point : report.result.line) {
    search.points.push_back(at(point, point.search_kl));
    check.points.push_back(at(point, check_or_search(point)));
    check.points.back().chosen = point.name == report.result.best.name;
    description +=
        fmt::format("{}: {:.1f} MB, {:.4f}. ", point.name, point.bytes / 1e6, check_or_search(point));
  }
  start.points.push_back(at(report.result.start, check_or_search(report.result.start)));
  const ChartSeries series[] = {check, search, start};
  return curve_chart({"chart1", "Divergence by size", description}, series,
                     {report.result.layers ? "size of the model" : "packed size of the model", " MB", false},
                     "divergence, nats", std::nullopt);
}

// The search's own text says that it gained, and the text that it did not see does not.
bool learned_by_heart(const TunedPlan& plan) {
  return plan.best.check_kl && check_or_search(plan.best) >= check_or_search(plan.start) &&
         plan.best.search_kl < plan.start.search_kl;
}

std::string parameter_row(const ParameterTrial& trial) {
  const bool own = trial.parameter.empty();
  return fmt::format(
      "<tr{}><th scope=\"row\">{}</th><td class=\"num\" data-label=\"Divergence, search\">{:.4f}</td><td "
      "class=\"num\" data-label=\"Change\">{}</td><td class=\"num\" data-label=\"Divergence, "
      "check\">{:.4f}</td><td class=\"num\" data-label=\"Seconds\">{:.1f}</td></tr>\n",
      trial.taken ? " class=\"best\"" : "",
      own ? "the method as it is" : fmt::format("{} {:g}", escape_html(trial.parameter), trial.value),
      trial.search_kl, own ? "" : fmt::format("{:+.4f} ± {:.4f}", trial.difference, trial.noise),
      trial.check_kl, trial.seconds);
}

std::string parameter_section(const ParameterSearch& search) {
  if (search.trials.empty()) return {};
  std::string html = fmt::format(
      "<h2>Parameters of the method</h2>\n<p>{}</p>\n<p class=\"quiet\">Each row is the start plan, pruned "
      "with "
      "one number changed. The change is the mean of the differences of the search's windows from the best "
      "row before the parameter; it counts where it is below zero by more than what stands behind "
      "±.</p>\n<div class=\"scroll\"><table class=\"cards\">\n<thead><tr><th>Parameter</th><th "
      "class=\"num\">Divergence<small>search text, nats a token</small></th><th "
      "class=\"num\">Change</th><th class=\"num\">Divergence<small>check text, nats a token</small></th><th "
      "class=\"num\">Seconds</th></tr></thead>\n<tbody>\n",
      escape_html(headline(search)));
  for (const ParameterTrial& trial : search.trials) html += parameter_row(trial);
  return html + "</tbody></table></div>\n";
}

}  // namespace

std::string headline(const ParameterSearch& search) {
  const std::size_t others = search.trials.size() - 1;  // beside the method as it is
  const std::string in_time = search.whole ? "" : "; the time was over before all were tried";
  if (search.found.empty()) {
    return fmt::format("the method's own: of {} trials none was better by more than its noise{}", others,
                       in_time);
  }
  std::string found;
  for (const auto& [name, value] : search.found)
    found += fmt::format("{}{} {:g}", found.empty() ? "" : ", ", name, value);
  return fmt::format("{}, found in {} trials{}", found, others, in_time);
}

std::string headline(const TuneReport& report) {
  const TunePoint& start = report.result.start;
  const TunePoint& best = report.result.best;
  const double before = check_or_search(start), after = check_or_search(best);
  const std::string on = best.check_kl ? "on text that the search did not see" : "on the search's text";
  const std::string what = best.ratio ? fmt::format("{:.1f} % of the blocks' weights gone, {:.1f} MB",
                                                    100.0 * *best.ratio, best.bytes / 1e6)
                                      : fmt::format("{:.1f} % zeros, {:.2f} bits a weight, {:.1f} MB packed",
                                                    100.0 * best.sparsity, best.bits, best.bytes / 1e6);
  const std::string text = fmt::format("{}: a divergence of {:.4f} {}", what, after, on);
  if (!(before > 0.0)) return text;
  return fmt::format("{}; the start had {:.4f} at {:.1f} MB ({:+.1f} %){}", text, before, start.bytes / 1e6,
                     100.0 * (after / before - 1.0),
                     learned_by_heart(report.result)
                         ? ": the gain on the search's text does not carry over, take more --search-windows"
                         : "");
}

nlohmann::ordered_json to_json(const TuneReport& report) {
  const TunedPlan& r = report.result;
  nlohmann::ordered_json line = nlohmann::ordered_json::array();
  for (const TunePoint& point : r.line) line.push_back(to_json(point));
  nlohmann::ordered_json document = {{"model", report.model},
                                     {"text", report.text},
                                     {"budget", report.budget.text()},
                                     {"keeps_budget", r.keeps_budget},
                                     {"start", to_json(r.start)},
                                     {"best", to_json(r.best)},
                                     {"line", std::move(line)},
                                     {r.layers ? "layers" : "linears", r.tuned},
                                     {"levels", r.levels},
                                     {"trials", r.trials},
                                     {"ended", r.ended},
                                     {"seed", report.seed},
                                     {"tokens",
                                      {{"calibration", report.calibration_tokens},
                                       {"search", report.search_tokens},
                                       {"check", report.check_tokens}}},
                                     {"seconds", {{"solve", r.solve_seconds}, {"search", r.search_seconds}}},
                                     {"command", report.command},
                                     {"commands", report.commands}};
  if (!r.parameters.trials.empty()) document["parameters"] = to_json(r.parameters);
  if (r.dense_tokens_per_second) document["dense_tokens_per_second"] = *r.dense_tokens_per_second;
  return document;
}

std::string to_html(const TuneReport& report) {
  const TunedPlan& r = report.result;
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>Plan for {0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>Plan for {0}: "
      "{2}</h1>\n"
      "<div class=\"verdict {3}\"><strong>{4}</strong>\n<p>{5}</p></div>\n",
      escape_html(report.model), kPageStyle, escape_html(report.budget.text()),
      !r.keeps_budget       ? "bad"
      : learned_by_heart(r) ? "fair"
                            : "good",
      r.keeps_budget ? "The budget is kept" : "The budget is not kept", escape_html(headline(report)));
  html += fmt::format("<p>Recommended:</p>\n<pre><code>{}</code></pre>\n", escape_html(report.command));
  html += fmt::format(
      "<p>{} {} at up to {} levels each, solved on {} tokens of <b>{}</b> in {:.0f} s; {} plans "
      "measured on {} tokens "
      "in {:.0f} s (ended by: {}), checked on {} others.</p>\n</header>\n",
      r.tuned, r.layers ? "layers" : "linears", r.levels, report.calibration_tokens, escape_html(report.text),
      r.solve_seconds, r.trials, report.search_tokens, r.search_seconds, escape_html(r.ended),
      report.check_tokens);
  if (!r.line.empty()) {
    html += fmt::format(
        "<h2>Size and divergence</h2>\n<p class=\"quiet\">Nearer to the lower left corner is better; the "
        "divergence axis is "
        "logarithmic. A ring marks the plan for the budget. Where the line of the check text lies above that "
        "of the search text, the search "
        "learned its own "
        "text. Sizes other than the budget's were measured once, not searched.</p>\n<figure>\n{}</figure>\n",
        chart(report));
  }
  html += fmt::format(
      "<h2>Plans</h2>\n<div class=\"scroll\"><table class=\"cards\">\n<thead><tr><th>Plan</th>{}<th "
      "class=\"num\">Divergence<small>search text, "
      "nats a token</small></th><th class=\"num\">Divergence<small>check text, nats a token</small></th>",
      r.layers ? "<th class=\"num\">Gone<small>of the blocks' weights</small></th><th "
                 "class=\"num\">Size</th>"
               : "<th class=\"num\">Zeros</th><th class=\"num\">Bits a weight</th><th "
                 "class=\"num\">Packed</th>");
  if (r.dense_tokens_per_second) html += "<th class=\"num\">Tokens/s</th>";
  html += "</tr></thead>\n<tbody>\n";
  html += row(r.start, false);
  if (r.line.empty()) html += row(r.best, true);
  for (const TunePoint& point : r.line) html += row(point, point.name == r.best.name);
  html += "</tbody></table></div>\n";
  if (r.dense_tokens_per_second && r.layers) {
    html += fmt::format(
        "<p class=\"quiet\">Tokens a second of one sequence on the device of the search, expected: the dense "
        "model has {:.1f}, measured, and its blocks' time is taken to go with their weights.</p>\n",
        *r.dense_tokens_per_second);
  } else if (r.dense_tokens_per_second) {
    html += fmt::format(
        "<p class=\"quiet\">Tokens a second of one sequence on the device of the search; the dense model has "
        "{:.1f}. The best plan's are measured, with weights of the same shapes and zeros in the place of its "
        "own; the others' follow from the measured times of their products.</p>\n",
        *r.dense_tokens_per_second);
  }
  html += parameter_section(r.parameters);
  html += "<h2>Commands</h2>\n<pre><code>";
  for (const std::string& command : report.commands) html += escape_html(command) + "\n";
  return html +
         fmt::format("</code></pre>\n<p class=\"quiet\">swiftprune {}, {}</p>\n</main>\n</body>\n</html>\n",
                     SWIFTPRUNE_VERSION, today());
}

}  // namespace swiftprune
