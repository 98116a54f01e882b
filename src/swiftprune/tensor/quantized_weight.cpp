#include "swiftprune/tensor/quantized_weight.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

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
  const Matrix values = dequantize(weight);
  return std::ranges::count_if(values.values(), [](float value) { return value != 0.0f; });
}

}  // namespace swiftprune
