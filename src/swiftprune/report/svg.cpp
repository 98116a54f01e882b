#include "swiftprune/report/svg.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include <fmt/format.h>

#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

constexpr double kWidth = 560.0;
constexpr int kNumColours = 7;

std::string opening(const ChartText& text, double width, double height, std::string_view style) {
  return fmt::format(
      "<svg class=\"{}\" role=\"img\" aria-labelledby=\"{}-t {}-d\" viewBox=\"0 0 {:.0f} {:.0f}\">"
      "<title id=\"{}-t\">{}</title><desc id=\"{}-d\">{}</desc>\n",
      style, text.id, text.id, width, height, text.id, escape_html(text.title), text.id,
      escape_html(text.description));
}

std::string label(double x, double y, std::string_view anchor, std::string_view style,
                  std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\">{}</text>\n", x, y,
                     anchor, style, escape_html(text));
}

std::string line(double x1, double y1, double x2, double y2, std::string_view style) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1,
                     x2, y2, style);
}

// Each series has its own shape, so that colour is not needed to tell them apart.
std::string marker(double x, double y, std::size_t series) {
  const std::size_t colour = series % kNumColours;
  constexpr double r = 5.0;
  switch (colour) {
    case 1:
      return fmt::format("<rect class=\"c1\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"9\" height=\"9\"/>", x - 4.5,
                         y - 4.5);
    case 2:
      return fmt::format("<path class=\"c2\" d=\"M{:.1f} {:.1f}l6 10h-12z\"/>", x, y - 6);
    case 3:
      return fmt::format("<path class=\"c3\" d=\"M{:.1f} {:.1f}l6 6l-6 6l-6 -6z\"/>", x, y - 6);
    case 4:
      return fmt::format("<path class=\"c4\" d=\"M{:.1f} {:.1f}l6 -10h-12z\"/>", x, y + 6);
    default:
      return fmt::format("<circle class=\"c{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>", colour, x, y, r);
  }
}

// 1, 2, 5, 10, ... inside [low, high]; at least one step on each side is drawn by the caller's margins.
std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  const bool wide = high / low > 50.0;
  for (double decade = std::pow(10.0, std::floor(std::log10(low))); decade <= high; decade *= 10.0) {
    for (const double step : {1.0, 1.5, 2.0, 3.0, 5.0, 7.0}) {
      if (wide && step != 1.0 && (step != 3.0 || high / low > 5000.0)) continue;
      const double tick = decade * step;
      if (tick >= low && tick <= high) ticks.push_back(tick);
    }
  }
  return ticks;
}

struct Range {
  double low, high;
};

// The least of 1, 2, 5, 10, ... that is no smaller.
double round_step(double least) {
  if (!(least > 0.0)) return 1.0;
  const double decade = std::pow(10.0, std::floor(std::log10(least)));
  for (const double step : {1.0, 2.0, 5.0}) {
    if (step * decade >= least) return step * decade;
  }
  return 10.0 * decade;
}

// Labels at the right end, moved apart where they would touch.
std::vector<double> spread(std::vector<double> wanted, double gap, double low, double high) {
  std::vector<std::size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return wanted[a] < wanted[b]; });
  double next = low;
  for (const std::size_t i : order) {
    wanted[i] = std::max(wanted[i], next);
    next = wanted[i] + gap;
  }
  double last = high;
  for (auto i = order.rbegin(); i != order.rend(); ++i) {
    wanted[*i] = std::min(wanted[*i], last);
    last = wanted[*i] - gap;
  }
  return wanted;
}

// A letter at the sizes of the page's style sheet for phones, in a picture's units: the widest that it gets.
constexpr double kLetter = 10.6;  // of a wide face (DejaVu Sans)

// Not longer than so many characters: beginning and end, since names of one family differ at their ends.
std::string shortened(const std::string& label, std::int64_t most) {
  const std::string whole = text::replace_invalid_utf8(label);
  const std::int64_t count = text::num_code_points(whole), head = most / 3, tail = most - 1 - head;
  if (count <= most) return whole;
  std::size_t at = 0;
  const auto skip = [&](std::int64_t code_points) {
    for (std::int64_t i = 0; i < code_points; ++i) at += text::utf8_length(whole[at]);
    return at;
  };
  const std::size_t end_of_head = skip(head), start_of_tail = skip(count - head - tail);
  return whole.substr(0, end_of_head) + "…" + whole.substr(start_of_tail);
}

constexpr std::int64_t kMostOfName = 16;  // of a curve

// Room for the numbers of the axis.
double left_of_curves(std::span<const double> ticks) {
  std::size_t letters = 0;
  for (const double tick : ticks) letters = std::max(letters, fmt::format("{:g}", tick).size());
  return std::max(62.0, 15 + kLetter * static_cast<double>(letters));
}

// Room for the names beside the curves.
double right_of_curves(std::span<const ChartSeries> series, const std::optional<ChartPoint>& reference,
                       const std::optional<ChartPoint>& limit) {
  std::int64_t letters = 0;
  const auto add = [&letters](const std::string& name) {
    letters = std::max(letters, text::num_code_points(shortened(name, kMostOfName)));
  };
  for (const ChartSeries& s : series) add(s.name);
  if (reference) add(reference->label);
  if (limit) add(limit->label);
  return std::min(420.0, kWidth - 14 - kLetter * static_cast<double>(letters));
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string result;
  for (const char c : text::replace_invalid_utf8(text)) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') result += c;
    }
  }
  return result;
}

std::string short_number(double value) {
  const double size = std::abs(value);
  if (!std::isfinite(value)) return "∞";
  if (size >= 1e6) return fmt::format("{:.1e}", value);
  return fmt::format("{:.{}f}", value, size >= 100 || size == 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

std::string curve_chart(const ChartText& text, std::span<const ChartSeries> series, const ChartAxis& x_axis,
                        std::string_view y_label, const std::optional<ChartPoint>& reference,
                        const std::optional<ChartPoint>& limit) {
  constexpr double kHeight = 340, kTop = 26, kBottom = 292;
  const ChartPoint first = reference ? *reference : series.front().points.front();
  Range x{first.x, first.x}, y{first.y, first.y};
  for (const ChartSeries& s : series) {
    for (const ChartPoint& p : s.points) {
      x = {std::min(x.low, p.x), std::max(x.high, p.x)};
      y = {std::min(y.low, p.y), std::max(y.high, p.y)};
    }
  }
  if (limit) y.high = std::max(y.high, limit->y);
  const double step = x_axis.is_share ? 10.0 : round_step((x.high - x.low) / 5.0);
  const double margin = 0.2 * step;
  x = {std::max(0.0, std::floor((x.low - margin) / step) * step), std::ceil((x.high + margin) / step) * step};
  if (x_axis.is_share) x.high = std::min(100.0, x.high);
  y = {y.low / 1.12, std::max(y.high, y.low * 1.2) * 1.12};
  const std::vector<double> y_ticks = log_ticks(y.low, y.high);
  const double left = left_of_curves(y_ticks), right = right_of_curves(series, reference, limit);
  const auto at_x = [&](double v) { return left + (v - x.low) / (x.high - x.low) * (right - left); };
  const auto at_y = [&](double v) {
    return kBottom - std::log(v / y.low) / std::log(y.high / y.low) * (kBottom - kTop);
  };
  std::string svg = opening(text, kWidth, kHeight, "chart");
  for (const double tick : y_ticks) {
    svg += line(left, at_y(tick), right, at_y(tick), "grid");
    svg += label(left - 13, at_y(tick) + 4, "end", "tick", fmt::format("{:g}", tick));  // clear of rings
  }
  double labelled = 0.0;  // up to here
  for (double tick = x.low; tick <= x.high + 0.01 * step; tick += step) {
    const std::string number = fmt::format("{:g}{}", tick, x_axis.unit);
    const double half = kLetter * static_cast<double>(number.size()) / 2;
    if (at_x(tick) - half < labelled) continue;
    svg += label(at_x(tick), kBottom + 18, "middle", "tick", number);
    labelled = at_x(tick) + half + 4;
  }
  svg += line(left, kBottom, right, kBottom, "axis");
  svg += label((left + right) / 2, kHeight - 8, "middle", "name", x_axis.name);
  svg += label(14, kTop - 14, "start", "name", y_label);
  std::vector<double> ends;
  if (reference) {
    svg += line(left, at_y(reference->y), right, at_y(reference->y), "reference");
    ends.push_back(at_y(reference->y));
  }
  if (limit) {
    svg += line(left, at_y(limit->y), right, at_y(limit->y), "limit");
    ends.push_back(at_y(limit->y));
  }
  for (const ChartSeries& s : series) ends.push_back(at_y(s.points.back().y));
  ends = spread(ends, 19, kTop, kBottom - 4);
  if (reference) {
    svg += label(right + 12, ends[0] + 4, "start", "series", reference->label);
    ends.erase(ends.begin());
  }
  if (limit) {
    svg += label(right + 12, ends[0] + 4, "start", "series", limit->label);
    ends.erase(ends.begin());
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    std::string path;
    for (const ChartPoint& p : series[i].points) {
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", at_x(p.x), at_y(p.y));
    }
    if (series[i].points.size() > 1)
      svg += fmt::format("<path class=\"curve l{}\" d=\"{}\"/>\n", i % kNumColours, path);
    const ChartPoint& last = series[i].points.back();
    svg += fmt::format("<path class=\"leader\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>\n", at_x(last.x) + 7,
                       at_y(last.y), right + 8, ends[i]);
    for (const ChartPoint& p : series[i].points) {
      const std::string ring =
          !p.chosen ? ""
                    : fmt::format("<circle class=\"chosen\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"10\"/>",
                                  at_x(p.x), at_y(p.y));
      svg += fmt::format("<g>{}{}<title>{}</title></g>\n", marker(at_x(p.x), at_y(p.y), i), ring,
                         escape_html(p.label));
    }
    svg += label(right + 12, ends[i] + 4, "start", "series", shortened(series[i].name, kMostOfName));
  }
  return svg + "</svg>\n";
}

double axis_end(double largest) { return round_step(largest); }

std::string block_bars(const ChartText& text, std::span<const double> values, double top,
                       std::string_view style, bool percent) {
  constexpr double kBarWidth = 380, kHeight = 150, kLeft = 50, kBottom = 122, kTop = 12;
  const auto number = [&](double v) {
    return percent ? fmt::format("{:.0f} %", 100 * v) : fmt::format("{:g}", v);
  };
  std::string svg = opening(text, kBarWidth, kHeight, "chart small");
  for (const double part : {0.0, 0.5, 1.0}) {
    const double y = kBottom - part * (kBottom - kTop);
    svg += line(kLeft, y, kBarWidth, y, part == 0.0 ? "axis" : "grid");
    svg += label(kLeft - 6, y + 4, "end", "tick", number(part * top));
  }
  const auto n = static_cast<double>(values.size());
  const double step = (kBarWidth - kLeft) / std::max(1.0, n);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double height = std::clamp(values[i] / top, 0.0, 1.0) * (kBottom - kTop);
    svg += fmt::format(
        "<rect class=\"{}\" x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\"><title>block {}: "
        "{}</title></rect>\n",
        style, kLeft + (static_cast<double>(i) + 0.12) * step, kBottom - height, 0.76 * step, height, i,
        percent ? fmt::format("{:.1f} %", 100 * values[i]) : short_number(values[i]));
  }
  const std::size_t every = values.size() <= 16 ? 4 : values.size() <= 40 ? 8 : 16;
  for (std::size_t i = 0; i < values.size(); i += every) {
    svg += label(kLeft + (static_cast<double>(i) + 0.5) * step, kBottom + 17, "middle", "tick",
                 std::to_string(i));
  }
  return svg + "</svg>\n";
}

std::string stage_bars(const ChartText& text, std::span<const std::string> stages,
                       std::span<const StageBar> bars) {
  constexpr double kRow = 48, kRight = 480, kLine = 24;
  constexpr std::int64_t kMostLetters = 50;
  double longest = 0.0;
  for (const StageBar& bar : bars) {
    longest = std::max(longest, std::accumulate(bar.seconds.begin(), bar.seconds.end(), 0.0));
  }
  std::string legend;
  double x = 0.0, line_end = 6.0;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    const double width = 28 + kLetter * static_cast<double>(stages[s].size());
    if (x > 0.0 && x + width > kWidth) x = 0.0, line_end += kLine;
    legend += fmt::format("<rect class=\"c{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"11\" height=\"11\"/>",
                          s % kNumColours, x, line_end);
    legend += label(x + 16, line_end + 10, "start", "tick", stages[s]);
    x += width;
  }
  const double top = line_end + kLine + 4;
  std::string svg = opening(text, kWidth, top + kRow * static_cast<double>(bars.size()), "chart") + legend;
  for (std::size_t b = 0; b < bars.size(); ++b) {
    const double y = top + kRow * static_cast<double>(b);
    svg += label(0, y + 13, "start", "series", shortened(bars[b].label, kMostLetters));
    double at = 0.0, total = 0.0;
    for (std::size_t s = 0; s < bars[b].seconds.size(); ++s) {
      const double seconds = bars[b].seconds[s];
      const double width = longest > 0.0 ? seconds / longest * kRight : 0.0;
      svg += fmt::format(
          "<rect class=\"c{}\" x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"16\"><title>{}: {} "
          "s</title></rect>\n",
          s % kNumColours, at, y + 20, width, escape_html(s < stages.size() ? stages[s] : ""),
          short_number(seconds));
      at += width;
      total += seconds;
    }
    svg += label(at + 8, y + 33, "start", "tick", short_number(total) + " s");
  }
  return svg + "</svg>\n";
}

std::string mask_corner(const ChartText& text, const MaskPicture& picture) {
  const auto size = static_cast<double>(picture.corner_size);
  std::string svg = opening(text, size, size, "mask");
  std::string path;
  for (std::size_t r = 0; r < picture.corner.size(); ++r) {
    const std::vector<bool>& row = picture.corner[r];
    for (std::size_t c = 0; c < row.size();) {
      const bool kept = row[c];
      const std::size_t begin = c;
      while (c < row.size() && row[c] == kept) ++c;
      if (kept) path += fmt::format("M{} {}h{}v1h-{}z", begin, r, c - begin, c - begin);
    }
  }
  return svg + fmt::format("<path class=\"kept\" d=\"{}\"/></svg>\n", path);
}

std::string mask_density(const ChartText& text, const MaskPicture& picture) {
  constexpr int kLevels = 8;
  const Matrix& density = picture.density;
  std::string svg =
      opening(text, static_cast<double>(density.cols()), static_cast<double>(density.rows()), "mask");
  std::vector<std::string> paths(kLevels + 1);
  for (std::int64_t r = 0; r < density.rows(); ++r) {
    for (std::int64_t c = 0; c < density.cols(); ++c) {
      const auto level =
          static_cast<std::size_t>(std::lround(density.at(r, c) * static_cast<float>(kLevels)));
      paths[level] += fmt::format("M{} {}h1v1h-1z", c, r);
    }
  }
  for (int level = 1; level <= kLevels; ++level) {
    const std::string& path = paths[static_cast<std::size_t>(level)];
    if (!path.empty()) {
      svg += fmt::format("<path class=\"kept\" opacity=\"{:.3f}\" d=\"{}\"/>\n",
                         static_cast<double>(level) / kLevels, path);
    }
  }
  return svg + "</svg>\n";
}

}  // namespace swiftprune
