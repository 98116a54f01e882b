#include "swiftprune/model/mamba_config.h"

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family_config.h"

namespace swiftprune {
namespace {

// transformers clips the time steps in one of its two ways of computing them alone.
void check_time_steps(const ConfigReader& c) {
  if (!c.has("time_step_limit")) return;
  const nlohmann::json& limit = c.object().at("time_step_limit");
  const bool none = limit.is_array() && limit.size() == 2 && limit[0].is_number() && limit[0] == 0.0 &&
                    limit[1] == nlohmann::json{{"__float__", "Infinity"}};
  if (none) return;
  bad_input("{}: found {}, expected no limit: from 0 to infinity", c.where("time_step_limit"),
            json_excerpt(limit, 60));
}

std::int64_t read_mamba_head_size(const ConfigReader& c, std::int64_t size, std::int64_t heads,
                                  std::string_view what) {
  const auto field = c.object().find("mamba_d_head");
  const bool automatic = field == c.object().end() || field->is_null() || *field == "auto";
  if (size % heads != 0) {
    bad_input("{}: found {}, expected a divisor of {} ({})", c.where("mamba_n_heads"), heads, what, size);
  }
  const std::int64_t head_size = automatic ? size / heads : c.integer("mamba_d_head");
  if (head_size * heads != size) {
    bad_input("{}: found {}, expected {}: {} over mamba_n_heads", c.where("mamba_d_head"), head_size,
              size / heads, what);
  }
  return head_size;
}

}  // namespace

ParallelMixer read_mamba2(const ConfigReader& c, const ModelConfig& m, const std::string& prefix,
                          std::int64_t size, std::string_view what) {
  check_time_steps(c);
  if (m.activation != Activation::kSilu) {
    bad_input("{}: found {}, expected silu, which the convolutions of the mixers have", c.where("hidden_act"),
              name_of(m.activation));
  }
  Mamba2 mixer;
  mixer.heads = read_mixer_size(c, "mamba_n_heads", 128);
  mixer.groups = read_mixer_size(c, "mamba_n_groups", 1);
  mixer.state_size = read_mixer_size(c, "mamba_d_state", 256);
  mixer.head_size = read_mamba_head_size(c, size, mixer.heads, what);
  if (mixer.heads % mixer.groups != 0) {
    bad_input("{}: found {}, expected a divisor of mamba_n_heads ({})", c.where("mamba_n_groups"),
              mixer.groups, mixer.heads);
  }
  const bool bias = c.boolean("mamba_proj_bias", false);
  const std::int64_t channels = size + 2 * mixer.groups * mixer.state_size;
  mixer.convolution = {.weight = prefix + "conv1d.weight",
                       .bias = c.boolean("mamba_conv_bias", true) ? prefix + "conv1d.bias" : "",
                       .channels = channels,
                       .taps = c.integer("mamba_d_conv", 4)};
  mixer.decay = prefix + "A_log";
  mixer.step_bias = prefix + "dt_bias";
  mixer.skip = prefix + "D";
  mixer.norm = prefix + "norm.weight";
  ParallelMixer result;
  result.input = {prefix + "in_proj", size + channels + mixer.heads, m.hidden_size, bias,
                  LinearInput::kAttention};
  result.output = {prefix + "out_proj", m.hidden_size, size, bias, LinearInput::kAttentionOutput};
  result.mixer = std::move(mixer);
  return result;
}

}  // namespace swiftprune
