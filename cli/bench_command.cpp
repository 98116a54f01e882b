// swiftprune bench: tokens a second, bytes and memory of models that generate, side by side.
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "command.h"
#include "machine.h"
#include "model_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/evaluation/speed.h"

namespace swiftprune::cli {
namespace {

struct BenchFlags {
  CommonOptions common;
  std::string model, adapter;
  std::vector<std::string> against;
  SpeedOptions speed;
  std::string compute = "auto";
  DeviceFlags device;
  LoadOptions load{.tune = true, .long_lived = true};
};

nlohmann::ordered_json to_json(const SpeedReport& report, const std::vector<std::string>& folders,
                               const std::vector<std::uint64_t>& file_bytes, const DeviceDescription& machine,
                               const BenchFlags& flags) {
  nlohmann::ordered_json models = nlohmann::ordered_json::array();
  for (std::size_t m = 0; m < folders.size(); ++m) {
    nlohmann::ordered_json batches = nlohmann::ordered_json::array();
    for (const BatchSpeed& speed : report.models[m].batches) {
      batches.push_back({{"batch", speed.batch},
                         {"prefill_tokens_per_second", speed.prefill_tokens_per_second},
                         {"decode_tokens_per_second", speed.decode_tokens_per_second},
                         {"prefill_ratio", speed.prefill_ratio},
                         {"decode_ratio", speed.decode_ratio},
                         {"bytes_per_step", speed.bytes_per_step},
                         {"share_of_read_ceiling", speed.share_of_read_ceiling}});
    }
    models.push_back({{"model", folders[m]},
                      {"file_bytes", file_bytes[m]},
                      {"load_seconds", report.models[m].load_seconds},
                      {std::string(machine.memory_field), report.models[m].memory_bytes},
                      {"batches", std::move(batches)}});
  }
  return {{"machine", machine.machine},
          {"compute", flags.compute},
          {"prompt_tokens", flags.speed.prompt_tokens},
          {"decode_tokens", flags.speed.decode_tokens},
          {"rounds", flags.speed.rounds},
          {"read_ceiling_bytes_per_second", report.read_ceiling_bytes_per_second},
          {"models", std::move(models)}};
}

void print_table(const SpeedReport& report, const std::vector<std::string>& folders,
                 const std::vector<std::uint64_t>& file_bytes, const DeviceDescription& machine,
                 const BenchFlags& flags) {
  fmt::print(
      "{}; prompts of {} tokens, {} tokens decoded; medians of {} rounds; a ratio is the median of the "
      "rounds' own\n",
      machine.text, flags.speed.prompt_tokens, flags.speed.decode_tokens, flags.speed.rounds);
  fmt::print("memory read ceiling {:.1f} GB/s\n", report.read_ceiling_bytes_per_second / 1e9);
  for (std::size_t m = 0; m < folders.size(); ++m) {
    const ModelSpeed& model = report.models[m];
    fmt::print("\n{}\n  weights {} in files, {} {}, loaded in {:.2f} s\n", folders[m],
               human_bytes(static_cast<double>(file_bytes[m])),
               human_bytes(static_cast<double>(model.memory_bytes)), machine.memory_text, model.load_seconds);
    fmt::print("  {:>5}  {:>16} {:>6}  {:>16} {:>6}  {:>12} {:>15}\n", "batch", "prefill tokens/s", "ratio",
               "decode tokens/s", "ratio", "bytes a step", "of the ceiling");
    for (const BatchSpeed& speed : model.batches) {
      fmt::print("  {:>5}  {:>16.1f} {:>6.2f}  {:>16.1f} {:>6.2f}  {:>12} {:>13.0f} %\n", speed.batch,
                 speed.prefill_tokens_per_second, speed.prefill_ratio, speed.decode_tokens_per_second,
                 speed.decode_ratio, human_bytes(static_cast<double>(speed.bytes_per_step)),
                 100.0 * speed.share_of_read_ceiling);
    }
  }
}

void run(BenchFlags& flags) {
  const RunScope job = apply(flags.common);
  const auto device = open_device(flags.device);
  // The models to compare with come first: ratios are to the first.
  std::vector<std::string> folders = flags.against;
  folders.push_back(flags.model);
  std::vector<std::unique_ptr<Model>> owners;
  std::vector<const Model*> models;
  std::vector<std::uint64_t> file_bytes;
  for (const std::string& folder : folders) {
    const bool measured = owners.size() + 1 == folders.size();
    owners.push_back(open_model(flags.common, folder, measured ? flags.adapter : std::string()));
    device->check_model(*owners.back());
    owners.back()->check_length(flags.speed.prompt_tokens + flags.speed.decode_tokens,
                                "--prompt and --decode");
    models.push_back(owners.back().get());
    file_bytes.push_back(weight_bytes(*owners.back()));
  }
  flags.speed.progress = job.context().progress;
  const auto target = device->speed_target(compute_by_name(flags.compute, *device), flags.load);
  if (const std::string busy = busy_note(load_average(), num_threads()); !busy.empty())
    print_note(flags.common, busy);
  const SpeedReport report = measure_speed(models, *target, flags.speed);
  const DeviceDescription machine = device->describe();
  for (std::string& folder : folders) folder = as_given(flags.common, folder);
  if (flags.common.json) {
    print_json(to_json(report, folders, file_bytes, machine, flags));
  } else {
    print_table(report, folders, file_bytes, machine, flags);
  }
}

}  // namespace

void declare_bench(CLI::App& program) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command =
      program.add_subcommand("bench", "Measure the speed and memory of a model that generates");
  add_model_argument(*command, flags->common, "MODEL", flags->model, kAnyModelHelp)->required();
  add_adapter_flag(*command, flags->adapter);
  add_model_argument(*command, flags->common, "--against", flags->against,
                     "Models to measure in the same rounds; ratios are to the first");
  command->add_option("--batch", flags->speed.batches, "Sequences side by side")
      ->capture_default_str()
      ->check(in_range(1, 1024));
  command->add_option("--prompt-tokens,--prompt", flags->speed.prompt_tokens, "Tokens of each prompt")
      ->capture_default_str()
      ->check(in_range(1, 1 << 20));
  command->add_option("--decode-tokens,--decode", flags->speed.decode_tokens, "Tokens decoded behind it")
      ->capture_default_str()
      ->check(in_range(1, 1 << 20));
  command->add_option("--rounds", flags->speed.rounds, "Rounds; figures are medians")
      ->capture_default_str()
      ->check(in_range(1, 1000));
  command->add_flag("!--no-tune", flags->load.tune,
                    "Run packed weights packed, also where dense is faster here");
  add_compute_flag(*command, flags->compute);
  add_device_flags(*command, flags->device);
  add_load_flags(*command, flags->load);
  add_common_options(*command, flags->common);
  command->footer("Example: swiftprune bench ./SmolLM2-50.packed --against ./SmolLM2-135M");
  command->callback([flags] { run(*flags); });
}

}  // namespace swiftprune::cli
