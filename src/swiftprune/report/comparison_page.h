// The page that a comparison is told on, made section by section: one file, no scripts, no network. Everything that comes
// from files or users is escaped.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "swiftprune/report/comparison.h"
#include "swiftprune/report/svg.h"

namespace swiftprune {

class ComparisonPage {
 public:
  explicit ComparisonPage(const ComparisonReport& report);
  std::string build();

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
  static std::string escape(std::string_view text) { return escape_html(text); }
  static std::string percent(double share) { return fmt::format("{:.1f} %", 100.0 * share); }
  static std::string perplexity_text(double value);

  // comparison_html.cpp: what was measured, in words and in a table.
  bool has_decode() const;
  bool has_first_blocks() const;
  void head();
  void cell(std::string_view label, const std::string& value, const std::string& small = "");
  void model_row(const ModelReport& model);
  void model_table();
  void commands();
  void words();

  // comparison_charts.cpp
  void curve();
  std::optional<ChartPoint> limit_line(double dense) const;
  // What no other model is both smaller and nearer to the dense one than, the smallest first.
  std::vector<const ModelReport*> pareto() const;
  void sizes();
  // Of all models, so that their charts have one scale.
  double largest_error(double BlockError::*member) const;
  void block_figures(const ModelReport& model);
  void blocks();
  void mask_figure(const ModelReport& model, const MaskPicture& mask);
  void masks();
  // Those that can be seen in some model's bar, in the order in which they come; the others are "other", the last.
  std::vector<std::string> visible_stages() const;
  void stages();

  // comparison_texts.cpp: tokens and answers, the dense model's beside the others'.
  void guesses(std::string_view title, const std::vector<std::pair<std::string, double>>& tokens);
  void worst_tokens();
  void answer_sides(const Prompt& prompt, std::size_t i, std::optional<AnswerSet> ModelReport::*member,
                    bool judged);
  void answers();
  void refusals();

  const ComparisonReport& report_;
  const ModelReport* best_ = nullptr;
  std::string html_;
  int num_charts_ = 0;
};

}  // namespace swiftprune
