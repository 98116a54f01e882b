#include "command.h"

#include <array>
#include <memory>
#include <utility>

#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/core/error.h"

namespace swiftprune::cli {
namespace {

struct ImportArguments {
  std::string file;
  std::string folder;
  std::string dtype = "auto";
  std::string max_shard_size = "5GB";
  std::string tokenizer;
  CommonOptions common;
};

constexpr std::array kDTypeNames = {std::pair{"f16", DType::kF16}, std::pair{"bf16", DType::kBF16},
                                    std::pair{"f32", DType::kF32}};

void run(const ImportArguments& arguments) {
  const RunScope job = apply(arguments.common);
  ImportOptions options;
  for (const auto& [name, dtype] : kDTypeNames) {
    if (arguments.dtype == name) options.dtype = dtype;
  }
  options.max_shard_bytes = parse_bytes("--max-shard-size", arguments.max_shard_size);
  options.tokenizer_folder = arguments.tokenizer;
  options.progress = job.context().progress;
  const ImportReport report = import_gguf(arguments.file, arguments.folder, options);

  if (arguments.common.json) {
    print_json({{"folder", arguments.folder},
                {"architecture", report.architecture},
                {"model_class", report.model_class},
                {"dtype", name_of(report.dtype)},
                {"tensors", report.num_tensors},
                {"parameters", report.num_parameters},
                {"bytes", report.bytes},
                {"notes", report.notes}});
  } else {
    fmt::print("{}: {} ({}), {} parameters in {} tensors, {}, {}\n", arguments.folder, report.model_class,
               report.architecture, report.num_parameters, report.num_tensors, name_of(report.dtype),
               human_bytes(static_cast<double>(report.bytes)));
  }
  print_notes(arguments.common, report.notes);
  print_next(arguments.common, {{"swiftprune", "prune", arguments.folder, "--out", "PRUNED"}});
}

}  // namespace

void declare_import(CLI::App& program) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App* command = program.add_subcommand("import", "Make a Hugging Face folder of a GGUF file");
  command->add_option("FILE", arguments->file, "GGUF file (version 2 or 3)")->required();
  command->add_option("OUT_DIR,-o,--out", arguments->folder, "Folder to make; also -o")->required();
  command
      ->add_option(
          "--dtype", arguments->dtype,
          "Type of the written weights; auto: bf16 or f32 when most of the file is stored so, else f16")
      ->transform(one_of({"auto", "f16", "bf16", "f32"}))
      ->capture_default_str();
  command->add_option("--max-shard-size", arguments->max_shard_size, "Largest weight file, e.g. 500MB or 5GB")
      ->capture_default_str();
  command->add_option("--tokenizer", arguments->tokenizer,
                      "Folder with the model's own tokenizer files, to take instead of the GGUF's");
  add_common_options(*command, arguments->common);
  command->footer("Example: swiftprune import SmolLM2-135M-Instruct.Q4_1.gguf smollm2");
  command->callback([arguments] { run_writing(arguments->folder, [&] { run(*arguments); }); });
}

}  // namespace swiftprune::cli
