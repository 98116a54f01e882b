// swiftprune export: a model folder as a file of another program's format.
#include <memory>

#include <fmt/ranges.h>

#include "calibration_text.h"
#include "command.h"
#include "model_text.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"
#include "swiftprune/export/export_gguf.h"
#include "swiftprune/export/gguf_grid.h"

namespace swiftprune::cli {
namespace {

struct ExportArguments {
  std::string model;
  std::string gguf;
  std::string type = "auto";
  std::string name;
  CalibrationText calibration{.sources = {}};  // none: each weight is rounded for itself
  std::int64_t windows = 16;
  std::string compute = "auto";
  CommonOptions common;
};

std::vector<std::string> type_names() {
  std::vector<std::string> names = gguf_mix_names();
  names.insert(names.begin(), "auto");
  return names;
}

void run(const ExportArguments& arguments) {
  const RunScope job = apply(arguments.common);
  check_output_file("--gguf", arguments.gguf);
  const auto model = open_model(arguments.common, arguments.model);
  ExportOptions options;
  options.mix = find_gguf_mix(arguments.type);  // none for auto
  options.name = arguments.name.empty() ? model_name(arguments.model) : arguments.name;
  options.progress = job.context().progress;
  std::unique_ptr<Device> device;
  TokenWindows windows;
  if (!arguments.calibration.sources.empty()) {
    if (options.mix == nullptr || find_grid(options.mix->base) == nullptr) {
      bad_usage(
          "--calibration: found --type {}, expected a quantised type; nothing else is rounded by statistics",
          arguments.type);
    }
    device = make_cpu_device();
    const ComputeType compute = compute_by_name(arguments.compute, *device);
    CalibrationText text = arguments.calibration;
    text.fit_to(*model);
    windows = calibration_windows(notes_to(arguments.common), *model, *device, text, arguments.windows, false,
                                  compute, options.progress);
    options.calibration.emplace(GgufCalibration{device->host(), windows, compute});
  }
  const ExportReport report = export_gguf(*model, arguments.gguf, options);
  if (arguments.common.json) {
    print_json({{"file", arguments.gguf},
                {"architecture", report.architecture},
                {"type", report.type},
                {"types", report.types},
                {"tensors", report.num_tensors},
                {"parameters", report.num_parameters},
                {"bytes", report.bytes},
                {"notes", report.notes}});
  } else {
    std::vector<std::string> types;
    for (const auto& [name, count] : report.types) types.push_back(fmt::format("{} {}", count, name));
    fmt::print("{}: GGUF {}, {} parameters in {} tensors, {}{}, {}\n", arguments.gguf, report.architecture,
               report.num_parameters, report.num_tensors, report.type,
               types.size() > 1 ? fmt::format(" (matrices: {})", fmt::join(types, ", ")) : std::string(),
               human_bytes(static_cast<double>(report.bytes)));
  }
  CommonOptions loud = arguments.common;
  loud.quiet = false;  // what another program will do otherwise is no hint
  print_notes(loud, report.notes);
}

}  // namespace

void declare_export(CLI::App& program) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command = program.add_subcommand("export", "Write a model as a GGUF file for llama.cpp");
  add_model_argument(*command, arguments->common, "MODEL", arguments->model, kModelHelp)->required();
  command->add_option("-o,--gguf", arguments->gguf, "File to write; must not exist")->required();
  command
      ->add_option("--type", arguments->type,
                   fmt::format("Type of the matrices (vectors and norms stay f32); auto: the folder's own. "
                               "One of {}",
                               fmt::join(type_names(), ", ")))
      ->type_name("TYPE")
      ->transform(one_of(type_names()).description(""))
      ->capture_default_str();
  command->add_option("--name", arguments->name, "The model's name in the file (default: the folder's)");
  add_calibration_flags(*command, arguments->calibration);
  command->get_option("--calibration")
      ->description(
          "With a quantised type: text that the linears are rounded for (files as in prune, or self; not "
          "with "
          "experts); without it each weight is rounded for itself")
      ->default_str("");
  command->add_option("--windows", arguments->windows, "Calibration windows")
      ->check(in_range(1, 1 << 20))
      ->capture_default_str();
  add_compute_flag(*command, arguments->compute);
  add_common_options(*command, arguments->common);
  command->footer(
      "Examples:\n"
      "  swiftprune export smollm2-50 --gguf smollm2-50.gguf --type q8_0\n"
      "  swiftprune export smollm2-50 --gguf smollm2-50.gguf --type q4_k_m --calibration my_text.txt");
  command->callback([arguments] { run_writing(arguments->gguf, [&] { run(*arguments); }); });
}

}  // namespace swiftprune::cli
