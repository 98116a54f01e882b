#include "swiftprune/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr double kPi = std::numbers::pi;

struct RopeInput {
  const ConfigReader& parameters;
  const ConfigReader& config;
  double theta;
  std::int64_t rotary_size;
  std::int64_t max_positions;

  std::int64_t original_positions() const {
    return parameters.integer("original_max_position_embeddings",
                              config.integer("original_max_position_embeddings", max_positions));
  }
};

double positive(const ConfigReader& reader, std::string_view key,
                std::optional<double> fallback = std::nullopt) {
  const double value = reader.number(key, fallback);
  if (!(value > 0.0)) bad_input("{}: found {}, expected a positive number", reader.where(key), value);
  return value;
}

void scale_llama3(RopeConfig& rope, const RopeInput& in) {
  const double factor = positive(in.parameters, "factor");
  const double low = positive(in.parameters, "low_freq_factor");
  const double high = positive(in.parameters, "high_freq_factor");
  const double original = static_cast<double>(in.original_positions());
  if (high <= low)
    bad_input("{}: expected high_freq_factor above low_freq_factor", in.parameters.where("high_freq_factor"));
  for (double& f : rope.inverse_frequency) {
    const double wavelength = 2.0 * kPi / f;
    if (wavelength < original / high) continue;
    if (wavelength > original / low) {
      f /= factor;
    } else {
      const double smooth = (original / wavelength - low) / (high - low);
      f = (1.0 - smooth) * f / factor + smooth * f;
    }
  }
}

void scale_yarn(RopeConfig& rope, const RopeInput& in) {
  const double original = static_cast<double>(in.original_positions());
  const double factor = positive(in.parameters, "factor", static_cast<double>(in.max_positions) / original);
  const auto scale = [](double s, double m) { return s <= 1.0 ? 1.0 : 0.1 * m * std::log(s) + 1.0; };
  const double mscale = in.parameters.number("mscale", 0.0);
  const double mscale_all = in.parameters.number("mscale_all_dim", 0.0);
  const double magnitude = mscale != 0.0 && mscale_all != 0.0
                               ? scale(factor, mscale) / scale(factor, mscale_all)
                               : scale(factor, 1.0);
  rope.magnitude = in.parameters.number("attention_factor", magnitude);
  const double half = static_cast<double>(rope.inverse_frequency.size());
  const auto dimension =
      [&](double rotations) {  // the pair that turns `rotations` times over the original length
        return half * std::log(original / (rotations * 2.0 * kPi)) / std::log(in.theta);
      };
  double low = dimension(in.parameters.number("beta_fast", 32.0));
  double high = dimension(in.parameters.number("beta_slow", 1.0));
  if (in.parameters.boolean("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(in.rotary_size) - 1.0);
  if (high <= low) high = low + 0.001;
  for (std::size_t i = 0; i < rope.inverse_frequency.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& f = rope.inverse_frequency[i];
    f = f / factor * ramp + f * (1.0 - ramp);
  }
}

void scale_longrope(RopeConfig& rope, const RopeInput& in) {
  const std::vector<double> short_factor = in.parameters.numbers("short_factor");
  const std::vector<double> long_factor = in.parameters.numbers("long_factor");
  const std::size_t half = rope.inverse_frequency.size();
  if (short_factor.size() != half || long_factor.size() != half) {
    bad_input("{}: found {} and {} factors, expected {} (half the rotary size)",
              in.parameters.where("short_factor"), short_factor.size(), long_factor.size(), half);
  }
  const std::int64_t original = in.original_positions();
  const double ratio =
      in.parameters.number("factor", static_cast<double>(in.max_positions) / static_cast<double>(original));
  const double magnitude =
      ratio <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(ratio) / std::log(static_cast<double>(original)));
  rope.magnitude = in.parameters.number("attention_factor", magnitude);
  rope.long_from = original;
  rope.long_inverse_frequency.resize(half);
  for (std::size_t i = 0; i < half; ++i) {
    if (!(short_factor[i] > 0.0) || !(long_factor[i] > 0.0)) {
      bad_input("{}: found a factor that is not positive at {}", in.parameters.where("short_factor"), i);
    }
    rope.long_inverse_frequency[i] = rope.inverse_frequency[i] / long_factor[i];
    rope.inverse_frequency[i] /= short_factor[i];
  }
}

}  // namespace

RopeConfig plain_rope(double theta, std::int64_t rotary_size) {
  RopeConfig rope;
  for (std::int64_t i = 0; i < rotary_size / 2; ++i) {
    rope.inverse_frequency.push_back(
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_size)));
  }
  return rope;
}

RopeConfig rope_from_parameters(const ConfigReader& parameters, double theta, std::int64_t rotary_size,
                                std::int64_t max_positions, const ConfigReader& config) {
  const RopeInput in{parameters, config, positive(parameters, "rope_theta", theta), rotary_size,
                     max_positions};
  RopeConfig rope = plain_rope(in.theta, rotary_size);
  // "type" is the older spelling of "rope_type", "su" the older name of longrope.
  const std::string type = parameters.text("rope_type", parameters.text("type", "default"));
  if (type == "linear") {
    const double factor = positive(parameters, "factor");
    for (double& f : rope.inverse_frequency) f /= factor;
  } else if (type == "llama3") {
    scale_llama3(rope, in);
  } else if (type == "yarn") {
    scale_yarn(rope, in);
  } else if (type == "longrope" || type == "su") {
    scale_longrope(rope, in);
  } else if (type != "default" && type != "dynamic") {
    // "dynamic" changes nothing up to max_position_embeddings, and longer sequences are refused.
    bad_input("{}: found '{}', expected default, linear, dynamic, llama3, yarn or longrope",
              parameters.where("rope_type"), type);
  }
  return rope;
}

RopeConfig read_rope(const ConfigReader& config, std::int64_t rotary_size, std::int64_t max_positions) {
  const double theta = config.number("rope_theta", 10000.0);
  for (const std::string_view key : {"rope_parameters", "rope_scaling"}) {
    if (config.has(key))
      return rope_from_parameters(config.child(key), theta, rotary_size, max_positions, config);
  }
  return plain_rope(theta, rotary_size);
}

RopeTable make_rope_table(const RopeConfig& rope, std::int64_t num_positions) {
  const bool use_long = !rope.long_inverse_frequency.empty() && num_positions > rope.long_from;
  const std::vector<double>& frequency = use_long ? rope.long_inverse_frequency : rope.inverse_frequency;
  const auto half = static_cast<std::int64_t>(frequency.size());
  RopeTable table{Matrix(num_positions, half), Matrix(num_positions, half)};
  for (std::int64_t p = 0; p < num_positions; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      // The angle is rounded to float, as transformers computes it.
      const float angle = static_cast<float>(p) * static_cast<float>(frequency[static_cast<std::size_t>(i)]);
      table.cos.at(p, i) = static_cast<float>(std::cos(double{angle}) * rope.magnitude);
      table.sin.at(p, i) = static_cast<float>(std::sin(double{angle}) * rope.magnitude);
    }
  }
  return table;
}

}  // namespace swiftprune
