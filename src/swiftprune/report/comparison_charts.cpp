// The page's charts: sparsity and size against quality, block by block, masks, times.
#include <algorithm>
#include <map>

#include "swiftprune/report/comparison_page.h"

namespace swiftprune {
namespace {

constexpr std::string_view kOtherStage = "other";  // as records name what is no stage

}  // namespace

void ComparisonPage::curve() {
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

std::optional<ChartPoint> ComparisonPage::limit_line(double dense) const {
  if (!report_.max_perplexity_ratio) return std::nullopt;
  const double limit = *report_.max_perplexity_ratio * dense;
  return ChartPoint{0.0, limit, "limit " + perplexity_text(limit)};
}

std::vector<const ModelReport*> ComparisonPage::pareto() const {
  std::vector<const ModelReport*> models;
  for (const ModelReport& model : report_.models) {
    if (model.divergence) models.push_back(&model);
  }
  std::stable_sort(models.begin(), models.end(), [](const ModelReport* a, const ModelReport* b) {
    return a->stored_bytes() < b->stored_bytes();
  });
  std::vector<const ModelReport*> line;
  for (const ModelReport* model : models) {
    if (line.empty() || model->divergence->mean_kl < line.back()->divergence->mean_kl) line.push_back(model);
  }
  return line;
}

void ComparisonPage::sizes() {
  if (report_.text.empty() || !any([](const ModelReport& model) { return model.few_bits; })) return;
  static constexpr double kLeast = 1e-6;  // of the logarithmic axis
  const auto point = [this](const ModelReport& model) {
    const double kl = std::max(kLeast, model.divergence->mean_kl);
    const double size = static_cast<double>(model.stored_bytes()) / 1e6;
    return ChartPoint{size, kl,
                      fmt::format("{}: {:.1f} MB, divergence {}", model.summary.name, size, short_number(kl)),
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

double ComparisonPage::largest_error(double BlockError::*member) const {
  double largest = 0.0;
  for (const ModelReport& model : report_.models) {
    if (!model.block_errors) continue;
    for (const BlockError& error : *model.block_errors) largest = std::max(largest, error.*member);
  }
  return largest;
}

void ComparisonPage::block_figures(const ModelReport& model) {
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
        block_bars(chart("Own error of each block", "Relative squared error; values are in the table below."),
                   own, axis_end(largest_error(&BlockError::own)), "own", false));
    put("<figure><figcaption>Error of the hidden states after the block</figcaption>{}</figure>\n",
        block_bars(chart("Error after each block", "Relative squared error; values are in the table below."),
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

void ComparisonPage::blocks() {
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

void ComparisonPage::mask_figure(const ModelReport& model, const MaskPicture& mask) {
  double kept = 0.0;
  for (const float value : mask.density.values())
    kept += double{value} / static_cast<double>(mask.density.numel());
  const std::string what = fmt::format("{} of {}", mask.tensor, model.summary.name);
  const std::string share =
      fmt::format("About {} of the weights are kept; pattern {}.", percent(kept), model.summary.pattern);
  const std::string corner = mask_corner(chart("Kept weights in the corner of " + what, share), mask);
  // Of N:M every cell is the same.
  const bool is_n_m = model.summary.pattern.find(':') != std::string::npos;
  const std::string density = is_n_m ? std::string() : mask_density(chart("Density of " + what, share), mask);
  put("<figure><figcaption>{}, {}</figcaption><div class=\"pair\">{}{}</div></figure>\n",
      escape(model.summary.name), escape(model.summary.pattern), corner, density);
}

void ComparisonPage::masks() {
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

std::vector<std::string> ComparisonPage::visible_stages() const {
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

void ComparisonPage::stages() {
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

}  // namespace swiftprune
