// swiftprune verify: is a pruned checkpoint what it claims to be?
#include <memory>

#include <fmt/format.h>

#include "colour.h"
#include "command.h"
#include "swiftprune/core/error.h"
#include "swiftprune/report/prune_record.h"
#include "swiftprune/report/verify.h"

namespace swiftprune::cli {
namespace {

struct VerifyArguments {
  std::string dense, pruned;
  VerifyOptions options;
  CommonOptions common;
};

void print_report(const VerifyReport& report) {
  const double weights = static_cast<double>(report.num_weights);
  fmt::print("dense   {}\npruned  {}{}\n", report.dense.string(), report.pruned.string(),
             report.has_record ? "" : " (no swiftprune.json)");
  fmt::print("zeros   {:.2f} % of the weights of {} pruned tensors\n\n",
             weights > 0.0 ? 100.0 * static_cast<double>(report.num_zeros) / weights : 0.0,
             report.num_tensors);
  for (const VerifyCheck& check : report.checks) {
    const Colour colour = check.outcome == VerifyCheck::Outcome::kPassed   ? Colour::kGreen
                          : check.outcome == VerifyCheck::Outcome::kFailed ? Colour::kRed
                                                                           : Colour::kYellow;
    fmt::print("{:<14}{}{}\n", check.name,
               coloured(stdout, colour, fmt::format("{:<9}", name_of(check.outcome))), check.detail);
  }
}

// Weights are compared one by one, and what shrink wrote has others.
void check_not_shrunk(const VerifyArguments& arguments) {
  const auto record = read_prune_record(arguments.pruned);
  if (!record || !record->method.starts_with("shrink")) return;
  bad_usage(
      "{}: found a model that shrink wrote, expected one that prune wrote; swiftprune compare measures it",
      as_given(arguments.common, arguments.pruned));
}

// A dense model passes for a pruned one without a record, so exchanged folders would.
void check_not_exchanged(const VerifyArguments& arguments) {
  if (read_prune_record(arguments.pruned) || !read_prune_record(arguments.dense)) return;
  bad_usage("{}: found a model with a record of its pruning, and none in {}; were the two exchanged?",
            as_given(arguments.common, arguments.dense), as_given(arguments.common, arguments.pruned));
}

void run(VerifyArguments& arguments) {
  const RunScope job = apply(arguments.common);
  check_not_shrunk(arguments);
  check_not_exchanged(arguments);
  arguments.options.progress = job.context().progress;
  const VerifyReport report = verify_pruned(arguments.dense, arguments.pruned, arguments.options);
  if (arguments.common.json) {
    print_json(to_json(report));
  } else {
    print_report(report);
  }
  if (const VerifyCheck* failed = report.first_failure()) {
    fail(ErrorKind::kFailure, "{}: check '{}' failed: {}", arguments.pruned, failed->name, failed->detail);
  }
  print_next(arguments.common, {{"swiftprune", "eval", arguments.pruned, "--text", "FILE"}});
}

}  // namespace

void declare_verify(CLI::App& program) {
  auto arguments = std::make_shared<VerifyArguments>();
  CLI::App* command =
      program.add_subcommand("verify", "Test a pruned model against its dense parent and its own record");
  add_model_argument(*command, arguments->common, "DENSE", arguments->dense, "The model that was pruned")
      ->required();
  add_model_argument(*command, arguments->common, "PRUNED", arguments->pruned, "The model that prune wrote")
      ->required();
  command
      ->add_option(
          "--pattern", arguments->options.pattern,
          "Pattern of every pruned tensor: auto (what swiftprune.json says of each), row, 2:4, block:16x16")
      ->capture_default_str()
      ->check(a_pattern("auto"));
  command->add_flag("--weights-unchanged", arguments->options.weights_unchanged,
                    "Kept weights must be the dense ones, also when the method does not promise it");
  add_common_options(*command, arguments->common);
  command->footer(
      "Exit code 0: every check passed; 1: one failed (the message names the first).\n"
      "Example: swiftprune verify ./SmolLM2-135M ./SmolLM2-24 --pattern 2:4");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace swiftprune::cli
