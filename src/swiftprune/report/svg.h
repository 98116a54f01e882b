// Charts as inline SVG for the report page: colours come from the page's style sheet (light and dark), every
// chart has a title and a description for screen readers.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/report/model_summary.h"

namespace swiftprune {

// & < > " ' as entities; bytes that are not UTF-8 become U+FFFD, control characters but \n and \t go.
std::string escape_html(std::string_view text);

struct ChartText {
  std::string id;  // unique on the page
  std::string title;
  std::string description;
};

struct ChartPoint {
  double x = 0.0, y = 0.0;
  std::string label;
  bool chosen = false;  // ringed
};
struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;  // joined by a line in this order
};
struct ChartAxis {
  std::string name;
  std::string unit;       // behind each number, " %"
  bool is_share = false;  // 0 to 100, whole tens
};
// y > 0 on a logarithmic axis. reference: a dashed horizontal line, with its label; limit: a dotted one.
std::string curve_chart(const ChartText& text, std::span<const ChartSeries> series, const ChartAxis& x_axis,
                        std::string_view y_label, const std::optional<ChartPoint>& reference,
                        const std::optional<ChartPoint>& limit = std::nullopt);

// The end of an axis for values up to this one: 1, 2, 5, 10, ...
double axis_end(double largest);

// One bar a block, all values >= 0. top: the axis' end. style: a class of the sheet.
std::string block_bars(const ChartText& text, std::span<const double> values, double top,
                       std::string_view style, bool percent);

struct StageBar {
  std::string label;
  std::vector<double> seconds;  // of each of the chart's stages
};
std::string stage_bars(const ChartText& text, std::span<const std::string> stages,
                       std::span<const StageBar> bars);

std::string mask_corner(const ChartText& text, const MaskPicture& picture);
std::string mask_density(const ChartText& text, const MaskPicture& picture);

// 12.3, 123, 1.23: three digits that mean something.
std::string short_number(double value);

}  // namespace swiftprune
