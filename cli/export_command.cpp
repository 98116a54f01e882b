// swiftprune export: a model folder as a file of another program's format.
#include <filesystem>
#include <memory>

#include "command.h"
#include "model_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/export/export_gguf.h"
#include "swiftprune/export/gguf_quantize.h"

namespace swiftprune::cli {
namespace {

struct ExportArguments {
  std::string model;
  std::string gguf;
  std::string type = "auto";
  std::string name;
  CommonOptions common;
};

// The folder's own name, also for "." and "model/".
std::string folder_name(const std::string& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

void run(const ExportArguments& arguments) {
  const RunScope job = apply(arguments.common);
  check_output_file("--gguf", arguments.gguf);
  const auto model = open_model(arguments.common, arguments.model);
  ExportOptions options;
  options.type = writable_ggml_type(arguments.type);  // none for auto
  options.name = arguments.name.empty() ? folder_name(arguments.model) : arguments.name;
  options.progress = job.context().progress;
  const ExportReport report = export_gguf(*model, arguments.gguf, options);
  if (arguments.common.json) {
    print_json({{"file", arguments.gguf},
                {"architecture", report.architecture},
                {"type", report.type},
                {"tensors", report.num_tensors},
                {"parameters", report.num_parameters},
                {"bytes", report.bytes},
                {"notes", report.notes}});
  } else {
    fmt::print("{}: GGUF {}, {} parameters in {} tensors, {}, {}\n", arguments.gguf, report.architecture,
               report.num_parameters, report.num_tensors, report.type,
               human_bytes(static_cast<double>(report.bytes)));
  }
  clear_progress();
  // Also when quiet: what another program will do otherwise is no hint.
  for (const std::string& note : report.notes) fmt::print(stderr, "note: {}\n", note);
}

}  // namespace

void declare_export(CLI::App& program) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command = program.add_subcommand("export", "Write a model as a GGUF file for llama.cpp");
  command->add_option("MODEL", arguments->model, "Hugging Face model folder: dense, pruned or shrunk")
      ->required();
  command->add_option("--gguf", arguments->gguf, "File to write; must not exist")->required();
  command
      ->add_option("--type", arguments->type,
                   "Type of the matrices (vectors and norms stay f32); auto: the folder's own")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16", "q8_0"}))
      ->capture_default_str();
  command->add_option("--name", arguments->name, "The model's name in the file (default: the folder's)");
  add_common_options(*command, arguments->common);
  command->footer("Example: swiftprune export smollm2-50 --gguf smollm2-50.gguf --type q8_0");
  command->callback([arguments] { run_writing(arguments->gguf, [&] { run(*arguments); }); });
}

}  // namespace swiftprune::cli
