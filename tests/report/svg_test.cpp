// Charts are read on phones, too, where their letters are larger: no text leaves the picture or meets another one.
#include "swiftprune/report/svg.h"

#include <regex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "swiftprune/text/unicode.h"

namespace swiftprune {
namespace {

constexpr double kPhoneLetter = 10.6;  // of 17 units, the style sheet's size on phones, in a wide face
constexpr double kPictureWidth = 560.0;

struct TextBox {
  std::string text;
  double left, right, y;
};

std::vector<TextBox> texts_of(const std::string& svg) {
  static const std::regex text(
      R"re(<text x="([-0-9.]+)" y="([-0-9.]+)" text-anchor="(\w+)" class="\w+">([^<]*)</text>)re");
  std::vector<TextBox> boxes;
  for (std::sregex_iterator it(svg.begin(), svg.end(), text), end; it != end; ++it) {
    const std::smatch& m = *it;
    const double width = kPhoneLetter * static_cast<double>(text::num_code_points(m[4].str()));
    const double share = m[3] == "start" ? 0.0 : m[3] == "end" ? 1.0 : 0.5;
    const double left = std::stod(m[1]) - share * width;
    boxes.push_back({m[4], left, left + width, std::stod(m[2])});
  }
  return boxes;
}

void expect_readable(const std::string& svg) {
  const std::vector<TextBox> boxes = texts_of(svg);
  EXPECT_GE(boxes.size(), 4u);
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const TextBox& box = boxes[i];
    EXPECT_GE(box.left, -1.0) << box.text;
    EXPECT_LE(box.right, kPictureWidth + 1.0) << box.text;
    for (std::size_t j = 0; j < i; ++j) {
      const bool apart =
          std::abs(boxes[j].y - box.y) >= 17.0 || boxes[j].right < box.left || box.right < boxes[j].left;
      EXPECT_TRUE(apart) << boxes[j].text << " and " << box.text;
    }
  }
}

TEST(Charts, NamesOfCurvesStayInThePicture) {
  const std::vector<ChartSeries> series = {{"SmolLM2-135M-Instruct-50-percent", {{90.0, 0.3, "a"}}},
                                           {"SmolLM2-135M-Instruct-int4", {{95.0, 0.2, "a"}}},
                                           {"dense, best", {{100.0, 0.0004, "b"}, {130.5, 0.002, "c"}}},
                                           {"Größe-ünd-Länge-äöü", {{141.5, 0.31, "d", true}}}};
  const std::string svg = curve_chart({"id", "title", "what"}, series, {"size of the model", " MB", false},
                                      "divergence, nats", std::nullopt);
  expect_readable(svg);
  EXPECT_THAT(svg, ::testing::HasSubstr(">SmolL…50-percent<"));
  EXPECT_THAT(svg, ::testing::HasSubstr(">SmolL…truct-int4<"));
  EXPECT_THAT(svg, ::testing::HasSubstr(">dense, best<"));
}

TEST(Charts, LinesHaveTheirNames) {
  const std::vector<ChartSeries> series = {{"best", {{20.0, 21.0, "a"}, {50.0, 2900.0, "b"}}}};
  const std::string svg =
      curve_chart({"id", "title", "what"}, series, {"zero weights", " %", true}, "perplexity",
                  ChartPoint{0.0, 20.75, "dense 20.75"}, ChartPoint{0.0, 22.83, "limit 22.83"});
  expect_readable(svg);
  EXPECT_THAT(svg, ::testing::HasSubstr("dense 20.75"));
  EXPECT_THAT(svg, ::testing::HasSubstr("limit 22.83"));
}

TEST(Charts, SizesOfLargeModelsAreApart) {
  const std::vector<ChartSeries> series = {{"best", {{3560.0, 0.01, "a"}, {14120.0, 0.5, "b"}}}};
  expect_readable(curve_chart({"id", "title", "what"}, series, {"size of the model", " MB", false},
                              "divergence, nats", std::nullopt));
}

TEST(Charts, StagesAndModelsHaveTheirNames) {
  const std::vector<std::string> stages = {"self text", "allocate", "calibrate", "statistics",
                                           "select",    "refine",   "write",     "other"};
  const std::vector<StageBar> bars = {
      {"SmolLM2-135M-Instruct-50-percent", {1.0, 2.0, 30.0, 4.0, 0.5, 60.0, 2.0, 0.1}},
      {"SmolLM2-135M-Instruct-24", {0.0, 0.0, 30.0, 4.0, 0.5, 0.0, 2.0, 0.1}}};
  const std::string svg = stage_bars({"id", "title", "what"}, stages, bars);
  expect_readable(svg);
  for (const StageBar& bar : bars) EXPECT_THAT(svg, ::testing::HasSubstr(bar.label));
}

}  // namespace
}  // namespace swiftprune
