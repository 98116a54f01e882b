// swiftprune shrink: a checkpoint folder in, a smaller dense checkpoint folder of the same family out.
#include <array>
#include <chrono>
#include <memory>

#include "calibration_text.h"
#include "command.h"
#include "model_text.h"
#include "option_echo.h"
#include "shrink_dry_run.h"
#include "shrink_flags.h"
#include "swiftprune/api/shrink_job.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"

namespace swiftprune::cli {
namespace {

void run(ShrinkFlags& flags, Communicator& ranks) {
  const RunScope scope = apply(flags.common);
  ShrinkJob& job = flags.job;
  if (flags.dry_run) check_one_process(ranks, "--dry-run", "leave --ranks out");
  check_outside("--out", job.out, job.model);
  const auto start = std::chrono::steady_clock::now();
  const auto device = open_device(flags.device);
  const auto model = open_model(flags.common, job.model);
  job.calibration.fit_to(*model);
  device->check_model(*model);
  const CLI::App& command = *flags.common.command;
  PreparedShrink prepared = prepare(
      job, *model, *device, compute_by_name(flags.compute, *device),
      [&](std::string_view option) { return command.count("--" + std::string(option)) > 0; }, ranks);
  if (flags.dry_run) return dry_run(flags, prepared, *model, *device);
  check_same_run(ranks, command, std::array{&model->checkpoint()}, *device);
  const JobOrigin origin{.command = command_record(command), .options = byte_options(command)};
  const auto report =
      shrink(job, std::move(prepared), *model, *device, origin, notes_to(flags.common), ranks);
  if (!report) return;  // another rank's
  if (flags.common.json) {
    print_json(report->record);
  } else {
    print_summary(flags, *report,
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
}

void add_flags(CLI::App& command, ShrinkFlags& f) {
  add_model_argument(command, f.common, "MODEL", f.job.model, kModelHelp)->required();
  command.add_option("-o,--out", f.job.out, "Folder to write; must not exist or be empty")->required();
  command
      .add_option("--ratio", f.job.ratio,
                  "Share of the blocks' parameters to remove, 0 < r < 1, or in percent: 20%")
      ->transform(share());
  command.add_option("--target-params", f.job.target_params, "Parameters of the whole shrunk model");
  command.add_option("--target-ms", f.job.target_ms,
                     "Milliseconds a decoded token here; the dense model is measured first");
  command.add_option("--plan", f.job.plan,
                     "Instead: what is left of each layer, from a file that tune --units wrote");
  command
      .add_option("--units", f.job.units,
                  "What to remove: mlp (channels), heads (whole key-head groups), layers, or several of them "
                  "with commas, mixed by measured loss; or experts (alone)")
      ->capture_default_str();
  command
      .add_option("--experts", f.job.experts,
                  "With --units experts, instead of --ratio: how many of each layer stay")
      ->check(within(option_values::kExperts));
  command.add_flag("!--no-keep-super", f.job.keep_super,
                   "With --units experts: experts whose outputs make massive activations may go, too");
  command
      .add_option("--rounds", f.job.rounds,
                  "With --units experts and the score ours: removed in so many steps, each measured anew")
      ->capture_default_str()
      ->check(within(option_values::kRounds));
  command.add_option("--align", f.job.align, "The MLP's width becomes a multiple of this")
      ->capture_default_str()
      ->check(within(option_values::kAlign));
  CLI::Option* non_uniform = command.add_flag(
      "--non-uniform", f.job.non_uniform,
      "Layers may keep different numbers of channels and head groups, or of experts; only swiftprune loads "
      "the result, and llama.cpp what export --gguf makes of a llama or mistral");
  command
      .add_option(
          "--widths-by", f.job.widths_by,
          "With --non-uniform, by what layers lose units: change (of the model's output, measured) or "
          "score (standardised in each layer, as FLAP does)")
      ->capture_default_str()
      ->needs(non_uniform)
      ->transform(one_of(option_values::kWidthsBy));
  command
      .add_option(
          "--score", f.job.score,
          "Score of channels and head groups: contribution (auto), wanda-sp, flap, obs, magnitude; of "
          "experts: ours (auto), reap, frequency, router-weight, ean, random")
      ->capture_default_str();
  command
      .add_option("--layers-by", f.job.layers_by,
                  "Choice of layers: greedy (measured loss, one after the other), influence (of the block), "
                  "or search (the better of both, then exchanges as long as the loss falls)")
      ->capture_default_str()
      ->transform(one_of(option_values::kLayersBy));
  command
      .add_option("--compensate", f.job.compensate,
                  "What is left: none (as it is), bias (means of what went, in biases that "
                  "config.json of the family allows; of experts, in theirs), refit "
                  "(output projections by least squares), aligned (all linears, towards the dense model; two "
                  "forwards), auto (aligned when layers go, else refit; of MXFP4 experts bias)")
      ->capture_default_str();
  command
      .add_option("--damping", f.job.damping, "Of the least squares: higher stays nearer to the old weights")
      ->capture_default_str()
      ->check(within(option_values::kDamping));
  command.add_option("--alpha", f.job.alpha, "With aligned: share of the inputs' error to make up for")
      ->capture_default_str()
      ->check(within(option_values::kMadeUpFor));
  command.add_option("--beta", f.job.beta, "With aligned: share of the residual's error to make up for")
      ->capture_default_str()
      ->check(within(option_values::kMadeUpFor));
  add_calibration_flags(command, f.job.calibration);
  command.add_option("--windows", f.job.windows, "Calibration windows")
      ->capture_default_str()
      ->check(within(option_values::kShrinkWindows));
  command.add_flag("--resume", f.job.resume,
                   "With --units experts: go on behind the last finished layer of a killed run; this run "
                   "keeps its own when "
                   "interrupted");
  command.add_flag(
      "--dry-run", f.dry_run,
      "Tell the sizes, and the time, memory and disk it takes, measured on the first blocks; write nothing");
  add_compute_flag(command, f.compute);
  add_device_flags(command, f.device);
  add_rank_flags(command, f.common, f.ranks);
  add_common_options(command, f.common);
}

}  // namespace

void declare_shrink(CLI::App& program) {
  auto flags = std::make_shared<ShrinkFlags>();
  CLI::App* command = program.add_subcommand(
      "shrink", "Take channels, heads or layers out and write a smaller dense checkpoint");
  add_flags(*command, *flags);
  command->footer(
      "Examples:\n"
      "  swiftprune shrink ./SmolLM2-135M --out ./SmolLM2-20 --ratio 0.2 --calibration my_text.txt\n"
      "  swiftprune shrink ./SmolLM2-135M --out ./SmolLM2-100M --target-params 100000000 --units mlp,layers\n"
      "  swiftprune shrink ./SmolLM2-135M --out ./SmolLM2-20 --plan tuned/plan.json --calibration "
      "my_text.txt\n"
      "  swiftprune shrink ./Qwen3-30B-A3B --out ./Qwen3-96 --units experts --experts 96 --calibration "
      "chat.jsonl code.jsonl");
  command->callback([flags] {
    run_in_ranks(flags->common, flags->ranks, flags->device.device, [&](Communicator& ranks) {
      run_writing(
          flags->job.out, [&] { run(*flags, ranks); }, [&] { return kept_layers(flags->job); });
    });
  });
}

}  // namespace swiftprune::cli
