// swiftprune prune and quantize: a checkpoint folder in, a pruned checkpoint folder out.
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "calibration_text.h"
#include "command.h"
#include "gate_flags.h"
#include "model_text.h"
#include "option_echo.h"
#include "prune_dry_run.h"
#include "ranks.h"
#include "swiftprune/api/prune_job.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/pipeline/capabilities.h"

namespace swiftprune::cli {
namespace {

struct PruneFlags {
  CommonOptions common;
  PruneJob job;
  std::string compute = "auto";
  DeviceFlags device;
  RankFlags ranks;
  PruneGate gate;
  bool dry_run = false;
};

void print_experts(const PruneFlags& flags, const Plan& plan, const PruneResult& result) {
  const auto unseen = std::count_if(plan.entries.begin(), plan.entries.end(),
                                    [](const PlanEntry& entry) { return !entry.observed && !entry.prune; });
  if (unseen > 0)
    fmt::print("as it was   {} linears inside latent attention, whose inputs are not observed\n", unseen);
  if (result.expert_tokens.empty()) return;
  std::int64_t experts = 0, pooled = 0, never = 0;
  for (const auto& layer : result.expert_tokens) {
    for (const std::int64_t tokens : layer.tokens) {
      ++experts;
      pooled += tokens < flags.job.min_expert_tokens ? 1 : 0;
      never += tokens == 0 ? 1 : 0;
    }
  }
  fmt::print("experts     {} of {} by the tokens that were sent to them", experts - pooled, experts);
  if (pooled > 0) {
    fmt::print("; {} with fewer than {} ({} with none) by all tokens of their layer", pooled,
               flags.job.min_expert_tokens, never);
  }
  fmt::print("; routers stay as they are\n");
}

// What a block has beside its linears where attention would be.
void print_mixers(const ModelConfig& model) {
  std::set<std::string> names;
  std::int64_t blocks = 0;
  for (BlockConfig block : model.blocks) {
    if (!block.recurrent) continue;
    ++blocks;
    const std::string& sibling = block.attention_output.name;  // of the module that holds them
    const std::size_t module = sibling.rfind('.') + 1;
    for (const MixerTensor& tensor : tensors_of(*block.recurrent)) names.insert(tensor.name->substr(module));
  }
  if (blocks > 0) fmt::print("as it was   {} of {} blocks\n", fmt::join(names, ", "), blocks);
}

std::string adapter_folder(const PruneFlags& flags) {
  return (std::filesystem::path(flags.job.out) / kAdapterFolder).string();
}

// "int4(64)", or where linears have several: how many weights each holds.
void print_grids(const PruneReport& report) {
  std::map<std::string, std::pair<std::int64_t, double>> grids;  // tensors, weights
  double all = 0.0;
  for (const PlanEntry& entry : report.plan.entries) {
    if (!entry.prune || !entry.grid) continue;
    auto& [tensors, weights] = grids[format(*entry.grid)];
    ++tensors;
    weights += entry.num_weights();
    all += entry.num_weights();
  }
  if (grids.size() == 1) fmt::print("grid        {}\n", grids.begin()->first);
  if (grids.size() < 2) return;
  for (const auto& [grid, count] : grids) {
    fmt::print("grid        {}: {} tensors, {:.1f} % of the weights on grids\n", grid, count.first,
               100.0 * count.second / all);
  }
}

void print_summary(const PruneFlags& flags, const ModelConfig& model, const PruneReport& report) {
  const PruneResult& result = report.result;
  const CalibrationRecord& calibration = report.calibration;
  const PackReport& packing = report.packing;
  const StageSeconds& s = result.seconds;
  fmt::print("{}      {}\n", report.plan.quantizes() ? "solved" : "pruned", flags.job.out);
  if (flags.job.zeros) {
    fmt::print("sparsity    {:.2f} % of the blocks' linears, pattern {}\n", 100.0 * result.sparsity,
               flags.job.pattern);
  } else {
    fmt::print("zeros       {:.2f} % of the blocks' linears, where a weight is nearest to 0 on its grid\n",
               100.0 * result.sparsity);
  }
  print_grids(report);
  if (!packing.linears.empty()) {
    fmt::print("size        {} -> {}, {:.2f} bits a weight of the linears on grids\n",
               human_bytes(static_cast<double>(packing.source_bytes)),
               human_bytes(static_cast<double>(packing.target_bytes)), stored_bits(report));
  }
  fmt::print("method      {} ({})\n", flags.job.method,
             result.weights_changed ? "kept weights refined" : "kept weights unchanged");
  if (report.plan.permute != Permute::kNone) {
    const auto changed = std::count_if(result.tensors.begin(), result.tensors.end(),
                                       [](const TensorResult& tensor) { return !tensor.order.empty(); });
    fmt::print("channels    inputs of {} linears in an order that loses less\n", changed);
  }
  if (report.plan.low_rank() > 0) {
    fmt::print("low rank    {} beside the linears, {} in {}\n", report.plan.low_rank(),
               human_bytes(report.record["low_rank"]["bytes"].get<double>()), adapter_folder(flags));
  }
  print_experts(flags, report.plan, result);
  print_mixers(model);
  if (calibration.windows > 0) {
    fmt::print("calibration {} windows of {} tokens from {}\n", calibration.windows, calibration.seqlen,
               calibration.source);
  }
  const auto& all = report.seconds;
  fmt::print(
      "time        {:.1f} s: text {:.1f}, {}calibrate {:.1f}, score {:.2f}, select {:.2f}, refine {:.1f}, "
      "read and "
      "write {:.1f}, other {:.1f}\n",
      all.total, all.text,
      report.allocation ? fmt::format("allocate {:.1f}, ", report.allocation->seconds) : "", s.calibrate,
      s.score, s.select, s.refine, s.load + s.write, all.other);
}

void print_next_steps(const PruneFlags& flags, const PruneReport& report) {
  if (flags.common.json) return;
  std::vector<std::vector<std::string>> next = {{"swiftprune", "eval", flags.job.out, "--text", "FILE"}};
  if (report.plan.low_rank() > 0) next.back().insert(next.back().end(), {"--adapter", adapter_folder(flags)});
  if (report.packing.linears.empty())
    next.insert(next.begin(), {"swiftprune", "verify", flags.job.model, flags.job.out});
  print_next(flags.common, next);
}

// Text that the model is still to write is not written for a dry run, nor is it looked for how much suffices.
// Which bits each linear gets is measured even then: it is what the run would do.
void dry_run(const PruneFlags& flags, PreparedPrune& prepared, const Model& model, Device& device) {
  const bool writes_text = flags.job.calibration.is_self();
  const Plan& plan = prepared.plan;
  TokenWindows windows;
  if (needs_calibration(plan) || prepared.allocates) {
    if (writes_text) {
      windows = stand_in_windows(model, counted_windows(flags.job, model, device, *prepared.method),
                                 flags.job.calibration.seqlen);
    } else {
      windows = calibrate(flags.job, prepared, model, device, notes_to(flags.common)).windows;
    }
  }
  const bool chooses_bits = prepared.bits.has_value();
  if (chooses_bits) allocate(prepared, model, device, windows);
  print_dry_run({.common = flags.common,
                 .out = flags.job.out,
                 .calibration = flags.job.calibration.source(),
                 .writes_text = writes_text && windows.num_windows() > 0,
                 .allocates = prepared.allocates,
                 .chooses_bits = chooses_bits,
                 .packs = prepared.packs},
                model, device, plan, windows, prepared.options);
}

void print_result(const PruneFlags& flags, const Model& model, const PruneReport& report) {
  if (flags.common.json) {
    print_json(report.record);
  } else {
    print_summary(flags, model.config(), report);
  }
  if (!takes_notes(flags.common)) return;
  if (const auto before = sparsity_before(model, report.plan, report.result.sparsity))
    print_note(flags.common, sparser_note(as_given(flags.common, flags.job.model), *before, report.plan));
  constexpr std::int64_t kFewTokens = 1024;
  const std::int64_t tokens = report.calibration.windows * report.calibration.seqlen;
  if (tokens > 0 && tokens < std::min(kFewTokens, model.config().max_positions)) {
    print_note(
        flags.common,
        fmt::format("{} tokens calibrated, which say little of what the model does; more --windows or a "
                    "longer --seqlen keep more",
                    tokens));
  }
}

// What calibrated the pruning flatters it.
void note_gate_text(const PruneFlags& flags) {
  for (const std::string& source : flags.job.calibration.sources) {
    std::error_code ignored;
    if (!flags.gate.text.empty() && std::filesystem::equivalent(source, flags.gate.text, ignored))
      print_note(flags.common, "--gate: this text calibrates, too; one that it has not seen says more");
  }
}

void run(PruneFlags& flags, Communicator& ranks) {
  const RunScope scope = apply(flags.common);
  PruneJob& job = flags.job;
  check(flags.gate);
  note_gate_text(flags);
  if (flags.dry_run) check_one_process(ranks, "--dry-run", "leave --ranks out");
  check_outside("--out", job.out, job.model);
  const auto device = open_device(flags.device);
  method_by_name(job.method);  // a wrong name costs no time
  const auto model = open_model(flags.common, job.model);
  job.calibration.fit_to(*model);
  device->check_model(*model);
  PreparedPrune prepared = prepare(job, *model, *device, compute_by_name(flags.compute, *device));
  if (flags.dry_run) return dry_run(flags, prepared, *model, *device);
  check_same_run(ranks, *flags.common.command, std::array{&model->checkpoint()}, *device,
                 {{"plan", sha256_hex(to_json(prepared.plan).dump())}});
  const ForwardOptions forward{.compute = prepared.options.compute, .progress = prepared.options.progress};
  const JobOrigin origin{.command = command_record(*flags.common.command),
                         .options = byte_options(*flags.common.command)};
  const auto report = prune(job, std::move(prepared), *model, *device, origin, notes_to(flags.common), ranks);
  if (report) print_result(flags, *model, *report);  // the first rank's
  const bool has_adapter = report && report->plan.low_rank() > 0;
  run_prune_gate(flags.gate,
                 {.dense = job.model,
                  .pruned = job.out,
                  .adapter = has_adapter ? adapter_folder(flags) : std::string(),
                  .field = job.calibration.field,
                  .seqlen = job.calibration.seqlen,
                  .forward = forward,
                  .common = flags.common},
                 *device, ranks);
  if (report) print_next_steps(flags, *report);
}

void run_pruning(PruneFlags& flags) {
  run_in_ranks(flags.common, flags.ranks, flags.device.device, [&](Communicator& ranks) {
    run_writing(
        flags.job.out, [&] { run(flags, ranks); }, [&] { return kept_blocks(flags.job); });
  });
}

void add_grid_flags(CLI::App& command, PruneFlags& f) {
  command
      .add_option("--quantize", f.job.quantize,
                  "Find weights on a grid of few bits, together with the zeros; with --method best, admm or "
                  "sparsegpt, or --refine rtn or gptq behind another. With --bits those to choose from "
                  "(int4,int3), all by default")
      ->check(some_of({"int8", "int4", "int3"}));
  command
      .add_option(
          "--bits", f.job.bits,
          f.job.zeros
              ? "Mean of bits a weight, as packed (codes, bitmap, scales), instead of --sparsity: each "
                "linear gets its bits and its zeros, by its sensitivity"
              : "Mean of bits a weight, as packed: each linear gets its bits, by its sensitivity")
      ->check(within(option_values::kBits));
  command.add_option("--group", f.job.group, std::string(kGroupHelp))
      ->transform(one_of(option_values::kGroup));
  command
      .add_option(
          "--store", f.job.store,
          "With --quantize: packed (default; the linears as codes and scales, as they were solved) or "
          "dense (values in the checkpoint's dtype, for programs that read no packed models)")
      ->transform(one_of(option_values::kStore));
  command
      .add_option(
          "--quantize-embeddings", f.job.embeddings,
          "With --quantize: embedding and output projection rounded to the nearest, too, as swiftprune pack "
          "does")
      ->transform(one_of(option_values::kTables));
  command.add_flag("--asymmetric", f.job.asymmetric, "With --quantize: a zero point for each group, too");
}

// What `prune` and `quantize` share.
void add_common_flags(CLI::App& command, PruneFlags& f) {
  add_model_argument(command, f.common, "MODEL", f.job.model, kModelHelp)->required();
  command.add_option("-o,--out", f.job.out, "Folder to write; must not exist or be empty")->required();
  command.add_option("--method", f.job.method, "Preset; swiftprune methods lists them")
      ->capture_default_str()
      ->transform(a_method());
  add_grid_flags(command, f);
  add_calibration_flags(command, f.job.calibration);
  command.add_option(
      "--windows", f.job.windows,
      "Calibration windows: a number, or auto: until more text hardly changes the statistics; default: "
      "the method's (swiftprune methods), fewer where the text is shorter");
  command.add_option("--refine", f.job.refine,
                     "Refinement, instead of the method's: none, \"pcg(20)\", \"admm(20)+pcg(20)\"");
  command
      .add_option("--propagate", f.job.propagate,
                  "What the next block sees while calibrating: pruned or dense")
      ->transform(one_of(option_values::kPropagate));
  command
      .add_option(
          "--min-expert-tokens", f.job.min_expert_tokens,
          "In models with experts: one that the calibration text sends fewer tokens to is pruned by all "
          "tokens of its layer")
      ->check(within(option_values::kMinExpertTokens))
      ->capture_default_str();
  command.add_option("--skip", f.job.skip,
                     "Leave tensors as they are: a shell pattern such as '*.down_proj.weight'; repeatable");
  command
      .add_option(
          "--override", f.job.overrides,
          "Other settings for some tensors: a shell pattern and settings, such as '*.down_proj.weight' "
          "sparsity=0.4,refine=none or quantize=int8(64); repeatable")
      ->type_size(2);
  command.add_flag(
      "--resume", f.job.resume,
      "Go on behind the last finished block of a killed run; this run keeps its own when interrupted");
  command.add_flag("--dry-run", f.dry_run,
                   "Write nothing: what would be done to which tensors, and the time, memory and disk it "
                   "takes, measured on two blocks");
  command.add_option("--plan", f.job.plan_file,
                     "A plan for single tensors; every run writes its own as plan.json");
  add_prune_gate_flags(command, f.gate);
  add_compute_flag(command, f.compute);
  add_device_flags(command, f.device);
  add_rank_flags(command, f.common, f.ranks);
  add_common_options(command, f.common);
}

void add_prune_flags(CLI::App& command, PruneFlags& f) {
  add_common_flags(command, f);
  command
      .add_option("--sparsity", f.job.sparsity,
                  "Share of the weights to prune, 0 <= s < 1, or in percent: 50%")
      ->capture_default_str()
      ->transform(share())
      ->each([&f](const std::string&) { f.job.sparsity_given = true; });
  command
      .add_option("--pattern", f.job.pattern,
                  "row (unstructured), layer, N:M such as 2:4 (keeps 2 of every 4), block:RxC")
      ->capture_default_str()
      ->check(a_pattern());
  command
      .add_option(
          "--permute", f.job.permute,
          "With N:M patterns: which inputs change places so that less is lost, at no cost later: none "
          "(default), mlp (down's, with the rows of gate and up) or all (attention output's within each head "
          "as "
          "well)")
      ->transform(one_of({"none", "mlp", "all"}));
  command
      .add_option("--low-rank", f.job.low_rank,
                  "Beside the zeros a low-rank part of this rank for each linear, found together with them "
                  "and written as "
                  "a LoRA folder of PEFT, OUT/adapter; with --method best or --refine admm (0: none)")
      ->check(within(option_values::kLowRank));
  command.add_option("--score", f.job.score, "Score, instead of the method's");
  command.add_option("--select", f.job.select, "Selection, instead of the method's");
  command
      .add_option("--allocate", f.job.allocate,
                  "How the sparsity is spread: none (the same everywhere) or sensitivity (linears and rows "
                  "whose pruning "
                  "changes the output little lose more); default: sensitivity with --method best and "
                  "unstructured patterns")
      ->transform(one_of(option_values::kAllocate));
  command.add_option("--lambda", f.job.lambda,
                     "With --select ewma: keep scores above mean + lambda * deviation");
  command.add_option("--ewma-alpha,--alpha", f.job.alpha, "With --select ewma: EWMA weight of the mean")
      ->capture_default_str();
  command.add_option("--ewma-beta,--beta", f.job.beta, "With --select ewma: EWMA weight of the deviation")
      ->capture_default_str();
}

}  // namespace

void declare_prune(CLI::App& program) {
  auto flags = std::make_shared<PruneFlags>();
  CLI::App* command = program.add_subcommand("prune", "Set weights to zero and write a new checkpoint");
  add_prune_flags(*command, *flags);
  command->footer(
      "Examples:\n"
      "  swiftprune prune ./SmolLM2-135M --out ./SmolLM2-50 --sparsity 0.5 --calibration my_text.txt\n"
      "  swiftprune prune ./SmolLM2-135M --out ./SmolLM2-24 --pattern 2:4 --method fast");
  command->callback([flags] { run_pruning(*flags); });

  auto grid = std::make_shared<PruneFlags>();
  grid->job = QuantizeJob();
  CLI::App* quantize =
      program.add_subcommand("quantize", "Put weights on a grid of few bits: prune --quantize without zeros");
  add_common_flags(*quantize, *grid);
  quantize->footer(
      "Examples:\n"
      "  swiftprune quantize ./SmolLM2-135M --out ./SmolLM2-int4 --quantize int4 --calibration my_text.txt\n"
      "  swiftprune quantize ./SmolLM2-135M --out ./SmolLM2-rtn --quantize int4 --group 32 --method rtn");
  quantize->callback([grid] { run_pruning(*grid); });
}

}  // namespace swiftprune::cli
