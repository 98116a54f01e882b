#include "swiftprune/tensor/quantized_weight.h"

#include <algorithm>
#include <numeric>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr std::string_view kWholeRow = "row";
constexpr std::string_view kAsymmetric = "asymmetric";

}  // namespace

QuantGrid parse_grid(std::string_view text, std::string_view where) {
  const auto wrong = [&] {
    bad_usage(
        "{}: found '{}', expected int8, int4 or int3, with a group of 32, 64, 128 or row and asymmetric "
        "where "
        "wanted: 'int4(32,asymmetric)'",
        where, text);
  };
  QuantGrid grid;
  std::string_view name = text.substr(0, text.find('('));
  std::string_view options = text.substr(name.size());
  const auto bits = std::ranges::find_if(kQuantBits, [&](int b) { return name == fmt::format("int{}", b); });
  if (bits == std::end(kQuantBits)) wrong();
  grid.bits = *bits;
  if (options.empty()) return grid;
  if (!options.ends_with(')')) wrong();
  options = options.substr(1, options.size() - 2);
  const std::string_view group = options.substr(0, options.find(','));
  const auto width =
      std::ranges::find_if(kQuantGroups, [&](std::int64_t g) { return group == fmt::format("{}", g); });
  if (width != std::end(kQuantGroups)) {
    grid.group = *width;
  } else if (group == kWholeRow) {
    grid.group = 0;
  } else {
    wrong();
  }
  if (group.size() == options.size()) return grid;
  if (options.substr(group.size() + 1) != kAsymmetric) wrong();
  grid.asymmetric = true;
  return grid;
}

std::string format(const QuantGrid& grid) {
  return fmt::format("int{}({}{})", grid.bits,
                     grid.group == 0 ? std::string(kWholeRow) : fmt::format("{}", grid.group),
                     grid.asymmetric ? fmt::format(",{}", kAsymmetric) : "");
}

double bits_per_weight(const QuantGrid& grid, std::int64_t cols) {
  const double scale_bits = 16.0 + (grid.asymmetric ? grid.bits : 0);
  return grid.bits + scale_bits * static_cast<double>(grid.groups_of(cols)) / static_cast<double>(cols);
}

void check_grid(const QuantGrid& grid, std::int64_t cols, const std::string& tensor) {
  if (std::ranges::find(kQuantBits, grid.bits) == std::end(kQuantBits)) {
    bad_usage("{} bits a weight: found {}, expected one of {}", tensor, grid.bits,
              fmt::join(kQuantBits, ", "));
  }
  if (grid.group == 0) {
    return;
  }
  if (std::ranges::find(kQuantGroups, grid.group) == std::end(kQuantGroups)) {
    bad_usage("{}: groups of {} inputs, expected one of {}, or 0 for whole rows", tensor, grid.group,
              fmt::join(kQuantGroups, ", "));
  }
  if (cols % grid.group != 0) {
    std::vector<std::int64_t> fitting;
    std::ranges::copy_if(kQuantGroups, std::back_inserter(fitting),
                         [cols](std::int64_t group) { return cols % group == 0; });
    bad_input("{}: groups of {} do not divide its {} inputs; {}", tensor, grid.group, cols,
              fitting.empty() ? std::string("only whole rows fit (group 0)")
                              : fmt::format("these do: {}, or 0 for whole rows", fmt::join(fitting, ", ")));
  }
}

Matrix dequantize(const QuantizedWeight& weight) {
  Matrix values(weight.rows, weight.cols);
  const std::int64_t groups = weight.grid.groups_of(weight.cols);
  const std::int64_t width = weight.cols / std::max<std::int64_t>(groups, 1);
  for (std::int64_t row = 0; row < weight.rows; ++row) {
    for (std::int64_t group = 0; group < groups; ++group) {
      const float scale = f16_to_f32(weight.scales[static_cast<std::size_t>(row * groups + group)]);
      const int zero = weight.zero_of(row, group);
      for (std::int64_t col = group * width; col < (group + 1) * width; ++col) {
        const int code = weight.codes[static_cast<std::size_t>(row * weight.cols + col)];
        values.at(row, col) = static_cast<float>(code - zero) * scale;
      }
    }
  }
  return values;
}

std::int64_t num_nonzero(const QuantizedWeight& weight) {
  const std::int64_t groups = weight.grid.groups_of(weight.cols);
  const std::int64_t width = weight.cols / std::max<std::int64_t>(groups, 1);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(weight.rows));
  parallel_for(weight.rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first * groups; i < last * groups; ++i) {
      const std::int64_t row = i / groups;
      const auto codes = std::span(weight.codes)
                             .subspan(static_cast<std::size_t>(row * weight.cols + i % groups * width),
                                      static_cast<std::size_t>(width));
      counts[static_cast<std::size_t>(row)] +=
          width - std::ranges::count(codes, static_cast<std::uint8_t>(weight.zero_of(row, i % groups)));
    }
  });
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

}  // namespace swiftprune
