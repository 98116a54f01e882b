// swiftprune recover: trains what pruning left towards the dense model, with PyTorch.
#include <algorithm>
#include <filesystem>
#include <future>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "calibration_text.h"
#include "command.h"
#include "model_text.h"
#include "option_echo.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/model_card.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/pilot/trial.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/recovery/recovery.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "work_folder.h"

namespace swiftprune::cli {
namespace {

struct RecoverFlags {
  CommonOptions common;
  std::string model, dense, out, work;
  CalibrationText calibration;
  std::int64_t windows = 128;
  RecoverySpec spec;
  std::string device = "cpu";
};

// Where the last step put weights on a grid: training would move them off it.
std::string grid_of(const Checkpoint& model) {
  const nlohmann::ordered_json record = previous_record(model);
  if (!record.is_object() || !record.contains("tensors") || !record["tensors"].is_array()) return "";
  for (const auto& tensor : record["tensors"]) {
    if (tensor.is_object() && tensor.contains("quantize") && tensor["quantize"].is_string())
      return tensor["quantize"].get<std::string>();
  }
  return "";
}

void check(const RecoverFlags& flags, const Model& pruned, const Model& dense) {
  const Checkpoint& checkpoint = pruned.checkpoint();
  for (const Model* model : {&pruned, &dense}) {
    if (const std::string& file = model->checkpoint().tensors().front().file; file.ends_with(".gguf")) {
      bad_input(
          "{}: found a GGUF file, expected a folder that transformers reads, since it trains; swiftprune "
          "import makes one",
          file);
    }
  }
  std::error_code ignored;
  if (std::filesystem::equivalent(flags.model, flags.dense, ignored)) {
    bad_usage(
        "--dense: found {}, which is MODEL, expected the model that was pruned; MODEL is what prune wrote",
        as_given(flags.common, flags.dense));
  }
  if (has_packed_tensors(checkpoint)) {
    bad_input("{}: found a packed model, expected a dense folder; recover what prune wrote, then pack",
              flags.model);
  }
  if (const std::string grid = grid_of(checkpoint); !grid.empty()) {
    bad_input(
        "{}: found weights on a grid ({}), which training would leave; recover the pruned model, then "
        "quantize it",
        flags.model, grid);
  }
  if (dense.config().vocab_size != pruned.config().vocab_size) {
    bad_input("--dense: found {} tokens in the vocabulary of {}, expected {} as {} has",
              dense.config().vocab_size, flags.dense, pruned.config().vocab_size, flags.model);
  }
  if (flags.windows <= flags.spec.check_windows) {
    bad_usage("--windows: found {}, of which --check-windows keeps {} out of the training; ask for more",
              flags.windows, flags.spec.check_windows);
  }
  if (flags.spec.gpus > 1 && flags.device != "cuda") {
    bad_usage("--gpus: found {} with --device {}, expected --device cuda", flags.spec.gpus, flags.device);
  }
}

nlohmann::ordered_json make_recover_record(const RecoverFlags& flags, const Model& pruned,
                                           const RecoveryResult& result, const TokenWindows& windows,
                                           nlohmann::ordered_json hashes) {
  nlohmann::ordered_json record = {{"swiftprune", SWIFTPRUNE_VERSION},
                                   {"command", command_record(*flags.common.command)},
                                   {"method", "recover"},
                                   {"retrained", true},
                                   {"family", pruned.config().family},
                                   {"weights_changed", true},
                                   {"calibration", calibration_record(flags.calibration.record(windows))},
                                   {"recovery", recovery_record(result)},
                                   {"input", std::move(hashes)},
                                   {"machine", machine_record()}};
  const nlohmann::ordered_json previous = previous_record(pruned.checkpoint());
  // The zeros are those of the step before.
  record["tensors"] = previous.is_object() && previous.contains("tensors") ? previous["tensors"]
                                                                           : nlohmann::ordered_json::array();
  if (!previous.is_null()) record["previous"] = previous;
  return record;
}

void print_summary(const RecoverFlags& flags, const RecoveryResult& result) {
  fmt::print("recovered   {} (with training: {} tensors, {:.1f} million weights; zeros kept)\n", flags.out,
             result.trained_tensors, static_cast<double>(result.trained_weights) / 1e6);
  fmt::print(
      "divergence  {:.4f} before, {:.4f} behind, on {} windows kept out of the training (epochs: {:.4f})\n",
      result.kl_before, result.kl_after, flags.spec.check_windows, fmt::join(result.kl_of_epochs, ", "));
  fmt::print("time        {:.1f} s for {} steps{}\n", result.train_seconds, result.steps,
             result.peak_gpu_bytes > 0 ? fmt::format(", {} of a GPU's memory",
                                                     human_bytes(static_cast<double>(result.peak_gpu_bytes)))
                                       : "");
}

void run(RecoverFlags& flags) {
  const RunScope job = apply(flags.common);
  check_outside("--out", flags.out, flags.model);
  check_new_folder(flags.out);
  const std::unique_ptr<Model> pruned_model = open_model(flags.common, flags.model);
  const std::unique_ptr<Model> dense_model = open_model(flags.common, flags.dense);
  const Model &pruned = *pruned_model, &dense = *dense_model;
  check(flags, pruned, dense);
  flags.calibration.fit_to(pruned);
  flags.spec.device = flags.device;
  const TemporaryFolder work(make_work_folder(flags.work));
  // Text that the model writes takes long: what would fail behind it fails before.
  if (flags.calibration.is_self()) check_trainer(flags.spec, work.path());
  auto hashes = std::async(std::launch::async, [&pruned] { return model_hashes(pruned.checkpoint()); });
  const auto device = open_device(DeviceFlags{});
  const TokenWindows windows =
      calibration_windows(notes_to(flags.common), dense, *device, flags.calibration, flags.windows, true,
                          compute_by_name("auto", *device), job.context().progress);
  if (windows.num_windows() <= flags.spec.check_windows) {
    bad_input(
        "{}: found text for {} windows of {} tokens, of which --check-windows keeps {} out of the training; "
        "give more text or a shorter --seqlen",
        flags.calibration.source(), windows.num_windows(), windows.seqlen, flags.spec.check_windows);
  }
  flags.spec.dense = flags.dense;
  flags.spec.threads = flags.common.threads;
  flags.spec.seed = flags.calibration.seed;
  CheckpointWriter writer(flags.out, plan_like(pruned.checkpoint()), Leftover::kDiscard);
  const std::vector<std::string> tables = tables_of(pruned.config());
  const RecoveryResult result = recover(pruned.checkpoint(), {tables.begin(), tables.end()}, windows,
                                        flags.spec, work.path(), job.context().progress, writer);
  const nlohmann::ordered_json record = make_recover_record(flags, pruned, result, windows, hashes.get());
  write_model_card(pruned.checkpoint(), record, false, writer);
  const std::string own_files[] = {"swiftprune.json", "plan.json"};
  writer.copy_other_files(pruned.checkpoint(), own_files);
  writer.write_file("swiftprune.json", record.dump(1) + "\n");
  writer.finish();
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, result);
  }
  print_next(flags.common, {{"swiftprune", "compare", flags.dense, flags.model, flags.out, "--text", "FILE"},
                            {"swiftprune", "pack", flags.out, "--out", flags.out + "-packed"}});
}

}  // namespace

void declare_recover(CLI::App& program) {
  auto flags = std::make_shared<RecoverFlags>();
  CLI::App* command = program.add_subcommand(
      "recover",
      "Train a pruned model towards the dense one, zeros kept (needs PyTorch; prune itself never trains)");
  add_model_argument(*command, flags->common, "MODEL", flags->model, "The model that prune wrote")
      ->required();
  add_model_argument(*command, flags->common, "--dense", flags->dense, "The model that was pruned")
      ->required();
  command->add_option("-o,--out", flags->out, "Folder to write; must not exist or be empty")->required();
  add_calibration_flags(*command, flags->calibration);
  command->add_option("--windows", flags->windows, "Windows of text, at most")
      ->capture_default_str()
      ->check(in_range(std::int64_t{2}, std::int64_t{1} << 30));
  command
      ->add_option(
          "--check-windows", flags->spec.check_windows,
          "Of them, those that are kept out of the training: the epoch that is best on them is written")
      ->capture_default_str()
      ->check(in_range(std::int64_t{1}, std::int64_t{1} << 20));
  command->add_option("--epochs", flags->spec.epochs, "Times through the text")
      ->capture_default_str()
      ->check(in_range(std::int64_t{1}, std::int64_t{10000}));
  command->add_option("--batch", flags->spec.batch, "Windows a step")
      ->capture_default_str()
      ->check(in_range(std::int64_t{1}, std::int64_t{1} << 20));
  command->add_option("--learning-rate", flags->spec.learning_rate, "Of AdamW, at its highest")
      ->capture_default_str()
      ->check(in_range(1e-9, 1.0));
  command->add_option("--device", flags->device, "As PyTorch names it: cpu, cuda, cuda:1")
      ->capture_default_str();
  command->add_option("--gpus", flags->spec.gpus, "GPUs of this machine: each holds a part of every layer")
      ->capture_default_str()
      ->check(in_range(1, 1024));
  command->add_option("--python", flags->spec.python, "Interpreter with torch, transformers and safetensors")
      ->capture_default_str()
      ->envname("SWIFTPRUNE_PYTHON");
  command->add_option("--work", flags->work, "Folder for the training's files; default: the system's");
  add_common_options(*command, flags->common);
  command->footer(
      "Example: swiftprune recover ./SmolLM2-24 --dense ./SmolLM2 --out ./recovered --calibration "
      "my_text.txt "
      "--device cuda");
  command->callback([flags] { run_writing(flags->out, [&] { run(*flags); }); });
}

}  // namespace swiftprune::cli
