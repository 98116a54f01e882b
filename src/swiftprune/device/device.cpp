#include "swiftprune/device/device.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"

namespace swiftprune {

void Device::check_model(const Model& model) const {
  std::vector<std::string_view> missing;
  for (const ModelFeature feature : features_of(model.config())) {
    if (!has_feature(feature)) missing.push_back(name_of(feature));
  }
  if (missing.empty()) return;
  bad_usage("{}: found a model with {}, which {} does not compute; use --device cpu",
            model.checkpoint().folder().string(), fmt::join(missing, ", "), name());
}

}  // namespace swiftprune
