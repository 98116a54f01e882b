#include "swiftprune/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/config_fields.h"

namespace swiftprune {
namespace {

constexpr std::string_view kOriginalPositions = "original_max_position_embeddings";
constexpr double kTurn = 2.0 * std::numbers::pi;

struct RopeInput {
  const ConfigReader& parameters;
  const RopeOptions& options;
  double theta;

  std::int64_t original_positions() const {
    if (options.original_positions) return *options.original_positions;
    return parameters.integer(kOriginalPositions, options.max_positions);
  }
};

std::int64_t num_pairs(std::int64_t rotary_size) { return (rotary_size + 1) / 2; }

// theta^(2i / rotary_size): the wavelength of pair i in turns of 2π positions.
std::vector<float> periods(double theta, std::int64_t rotary_size) {
  std::vector<float> result;
  for (std::int64_t i = 0; i < num_pairs(rotary_size); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_size);
    result.push_back(static_cast<float>(std::pow(double{static_cast<float>(theta)}, double{exponent})));
  }
  return result;
}

void scale_llama3(RopeConfig& rope, const RopeInput& in) {
  const double factor = in.parameters.positive("factor");
  const double low = in.parameters.positive("low_freq_factor");
  const double high = in.parameters.positive("high_freq_factor");
  if (high <= low) {
    bad_input("{}: found {}, expected more than low_freq_factor ({})",
              in.parameters.where("high_freq_factor"), high, low);
  }
  const auto original = static_cast<double>(in.original_positions());
  for (float& f : rope.inverse_frequency) {
    const double wavelength = kTurn / f;
    if (wavelength < original / high) continue;
    if (wavelength > original / low) {
      f = static_cast<float>(f / factor);
    } else {
      const double smooth = (original / wavelength - low) / (high - low);
      f = static_cast<float>((1.0 - smooth) * f / factor + smooth * f);
    }
  }
}

void scale_yarn(RopeConfig& rope, const RopeInput& in) {
  const auto original = static_cast<double>(in.original_positions());
  const double factor = in.parameters.positive("factor");  // transformers 5 makes none of the lengths
  const auto scale = [](double s, double m) { return s <= 1.0 ? 1.0 : 0.1 * m * std::log(s) + 1.0; };
  const double mscale = in.parameters.number("mscale", 0.0);
  const double mscale_all = in.parameters.number("mscale_all_dim", 0.0);
  const double magnitude = mscale != 0.0 && mscale_all != 0.0
                               ? scale(factor, mscale) / scale(factor, mscale_all)
                               : scale(factor, 1.0);
  rope.magnitude = in.parameters.positive("attention_factor", magnitude);
  if (in.theta <= 1.0) {
    bad_input("{}: found {}, expected more than 1 with yarn", in.parameters.where("rope_theta"), in.theta);
  }
  if (in.options.rotary_size % 2 != 0) {
    bad_input("{}: found 'yarn' where {} elements of a head rotate, expected an even number",
              in.parameters.where("rope_type"), in.options.rotary_size);
  }
  const auto size = static_cast<double>(in.options.rotary_size);
  // The pair that turns `rotations` times over the original length.
  const auto pair_of = [&](double rotations) {
    return size * std::log(original / (rotations * kTurn)) / (2.0 * std::log(in.theta));
  };
  double low = pair_of(in.parameters.positive("beta_fast", 32.0));
  double high = pair_of(in.parameters.positive("beta_slow", 1.0));
  if (in.parameters.boolean("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, size - 1.0);
  if (high == low) high += 0.001;
  for (std::size_t i = 0; i < rope.inverse_frequency.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    float& f = rope.inverse_frequency[i];
    f = static_cast<float>(f / factor * ramp + f * (1.0 - ramp));
  }
}

// The first pairs as they are in a head that rotates whole, the others not at all.
void scale_proportional(RopeConfig& rope, const RopeInput& in) {
  if (in.options.partial) {
    bad_input("{}: found 'proportional', which a family that rotates a part of each head has not",
              in.parameters.where("rope_type"));
  }
  const double factor = in.parameters.positive("factor", 1.0);
  const double part = in.parameters.positive("partial_rotary_factor", 1.0);
  const auto rotated =
      static_cast<std::size_t>(std::min(part, 1.0) * static_cast<double>(in.options.rotary_size) / 2.0);
  for (std::size_t i = 0; i < rope.inverse_frequency.size(); ++i) {
    float& f = rope.inverse_frequency[i];
    f = i < rotated ? static_cast<float>(f / factor) : 0.0f;
  }
}

std::vector<float> divided(const std::vector<float>& frequency, const ConfigReader& parameters,
                           std::string_view key) {
  const std::vector<double> factors = parameters.numbers(key);
  if (factors.size() != frequency.size()) {
    bad_input("{}: found {} factors, expected {} (half the rotary size)", parameters.where(key),
              factors.size(), frequency.size());
  }
  std::vector<float> result(frequency.size());
  for (std::size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0.0)) {
      bad_input("{}: found {} at {}, expected positive numbers", parameters.where(key), factors[i], i);
    }
    result[i] = static_cast<float>(frequency[i] / factors[i]);
  }
  return result;
}

void scale_longrope(RopeConfig& rope, const RopeInput& in) {
  rope.long_inverse_frequency = divided(rope.inverse_frequency, in.parameters, "long_factor");
  rope.inverse_frequency = divided(rope.inverse_frequency, in.parameters, "short_factor");
  rope.long_from = in.original_positions();
  if (rope.long_from < 2) {
    bad_input("{}: found {}, expected at least 2", in.parameters.where(kOriginalPositions), rope.long_from);
  }
  const auto original = static_cast<double>(rope.long_from);
  const double factor =
      in.parameters.positive("factor", static_cast<double>(in.options.max_positions) / original);
  const double magnitude = factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(original));
  rope.magnitude = in.parameters.positive("attention_factor", magnitude);
}

}  // namespace

RopeConfig plain_rope(const RopeOptions& options) {
  RopeConfig rope;
  for (const float period : periods(options.theta, options.rotary_size))
    rope.inverse_frequency.push_back(1.0f / period);
  return rope;
}

namespace {

// Members of the object; "finetuned" says how the model was trained, "mrope_section" where pictures would go.
constexpr std::string_view kParameters =
    "rope_theta rope_type type factor low_freq_factor high_freq_factor original_max_position_embeddings "
    "beta_fast "
    "beta_slow mscale mscale_all_dim attention_factor truncate short_factor long_factor "
    "partial_rotary_factor "
    "finetuned mrope_section mrope_interleaved";

void check_parameters(const ConfigReader& parameters, const std::string& type, const RopeOptions& options) {
  for (const auto& [name, value] : parameters.object().items()) {
    if (!is_in_list(name, kParameters) && !is_in_list(name, options.also) && !value.is_null()) {
      bad_input("{}: found {}, which swiftprune does not know: it may change the positions",
                parameters.where(name), json_excerpt(value, 40));
    }
  }
  const bool rotates_part = options.partial || type == "proportional";
  if (const double part = parameters.number("partial_rotary_factor", 1.0); part != 1.0 && !rotates_part) {
    bad_input("{}: found {}, expected 1: this family rotates whole heads",
              parameters.where("partial_rotary_factor"), part);
  }
  const bool uses_factor = type == "yarn" || type == "longrope" || type == "su";
  if (const double factor = parameters.number("attention_factor", 1.0); factor != 1.0 && !uses_factor) {
    bad_input("{}: found {}, which the type {} does not have", parameters.where("attention_factor"), factor,
              json_quoted(type));
  }
}

}  // namespace

RopeConfig rope_from_parameters(const ConfigReader& parameters, const RopeOptions& given) {
  RopeOptions options = given;
  options.theta = parameters.positive("rope_theta", given.theta);
  const RopeInput in{parameters, options, options.theta};
  RopeConfig rope = plain_rope(options);
  // "type" is the older spelling of "rope_type", "su" the older name of longrope.
  const std::string type = parameters.text("rope_type", parameters.text("type", "default"));
  check_parameters(parameters, type, options);
  if (type == "proportional") {
    scale_proportional(rope, in);
  } else if (type == "linear") {
    const double factor = parameters.positive("factor");
    for (float& f : rope.inverse_frequency) f = static_cast<float>(f / factor);
  } else if (type == "dynamic") {
    // Changes nothing up to max_position_embeddings, and longer sequences are refused.
    parameters.positive("factor");
  } else if (type == "llama3") {
    scale_llama3(rope, in);
  } else if (type == "yarn") {
    scale_yarn(rope, in);
  } else if (type == "longrope" || type == "su") {
    scale_longrope(rope, in);
  } else if (type != "default" && type != "mrope") {  // "mrope": text has one position in all of its parts
    bad_input("{}: found '{}', expected default, linear, dynamic, llama3, yarn, longrope or proportional",
              parameters.where(parameters.has("rope_type") ? "rope_type" : "type"), type);
  }
  const auto finite = [](float f) { return std::isfinite(f); };
  if (!std::ranges::all_of(rope.inverse_frequency, finite) ||
      !std::ranges::all_of(rope.long_inverse_frequency, finite) || !std::isfinite(rope.magnitude)) {
    bad_input("{}: found numbers that give no finite frequency", parameters.where("rope_type"));
  }
  return rope;
}

RopeConfig read_rope(const ConfigReader& config, const RopeOptions& given) {
  RopeOptions options = given;
  options.theta = config.positive("rope_theta", given.theta);
  // Beside the object it counts before the one inside, as in transformers.
  if (!options.original_positions && config.has(kOriginalPositions))
    options.original_positions = config.integer(kOriginalPositions);
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const ConfigReader parameters = config.child(key);
    if (parameters.object().empty()) continue;
    for (const std::string_view layer_type : {"full_attention", "sliding_attention"}) {
      if (parameters.has(layer_type)) {
        bad_input("{}: found parameters for each layer type, which this family has not",
                  parameters.where(layer_type));
      }
    }
    return rope_from_parameters(parameters, options);
  }
  return plain_rope(options);
}

std::vector<RopeConfig> read_ropes_by_layer(const ConfigReader& c, const RopeOptions& sliding,
                                            const RopeOptions& full) {
  if (c.has(kOriginalPositions) && (c.has("rope_parameters") || c.has("rope_scaling"))) {
    bad_input("{}: found beside rotations of each layer type, expected inside them",
              c.where(kOriginalPositions));
  }
  const bool scaled = c.has("rope_scaling") && !c.child("rope_scaling").object().empty();
  std::vector<RopeConfig> ropes = {plain_rope(sliding), plain_rope(full)};
  if (c.has("rope_parameters")) {
    if (scaled) {
      bad_input("{}: found it beside rope_parameters, expected one of them, as transformers writes it",
                c.where("rope_scaling"));
    }
    const ConfigReader by_type = c.child("rope_parameters");
    for (const auto& [type, value] : by_type.object().items()) {
      if (type != "sliding_attention" && type != "full_attention") {
        bad_input("{}: found {}, expected rotations of sliding_attention and full_attention",
                  by_type.where(type), json_excerpt(value));
      }
    }
    if (by_type.has("sliding_attention"))
      ropes[kSlidingRope] = rope_from_parameters(by_type.child("sliding_attention"), sliding);
    if (by_type.has("full_attention"))
      ropes[kFullRope] = rope_from_parameters(by_type.child("full_attention"), full);
  }
  if (scaled) ropes[kFullRope] = rope_from_parameters(c.child("rope_scaling"), full);
  return ropes;
}

std::int64_t read_rotary_size(const ConfigReader& config, std::int64_t head_size, std::string_view key,
                              double fallback) {
  constexpr std::string_view kParameter = "partial_rotary_factor";
  double fraction = config.positive(key, fallback);
  for (const std::string_view parameters : {"rope_parameters", "rope_scaling"}) {
    if (config.has(parameters)) fraction = config.child(parameters).positive(kParameter, fraction);
  }
  const auto size = static_cast<std::int64_t>(static_cast<double>(head_size) * std::min(fraction, 2.0));
  if (size < 1 || 2 * num_pairs(size) > head_size) {
    bad_input("{}: found {}, expected a fraction that rotates 2 to {} elements of a head", config.where(key),
              fraction, head_size);
  }
  return size;
}

RopeTable make_rope_table(const RopeConfig& rope, std::int64_t num_positions) {
  const bool use_long = !rope.long_inverse_frequency.empty() && num_positions > rope.long_from;
  const std::vector<float>& frequency = use_long ? rope.long_inverse_frequency : rope.inverse_frequency;
  const auto pairs = static_cast<std::int64_t>(frequency.size());
  RopeTable table{Matrix(num_positions, pairs), Matrix(num_positions, pairs)};
  for (std::int64_t p = 0; p < num_positions; ++p) {
    for (std::int64_t i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(p) * frequency[static_cast<std::size_t>(i)];
      table.cos.at(p, i) = static_cast<float>(std::cos(double{angle}) * rope.magnitude);
      table.sin.at(p, i) = static_cast<float>(std::sin(double{angle}) * rope.magnitude);
    }
  }
  return table;
}

}  // namespace swiftprune
