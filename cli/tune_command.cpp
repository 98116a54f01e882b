// swiftprune tune: the plan for a budget, of zeros and bits or of channels, heads and layers, searched for on a text of one's own.
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "calibration_text.h"
#include "command.h"
#include "machine.h"
#include "model_text.h"
#include "option_echo.h"
#include "prune_dry_run.h"
#include "ranks.h"
#include "swiftprune/api/shrink_job.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/pilot/block_trial.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/ranks/same_on_ranks.h"
#include "swiftprune/report/comparison.h"
#include "swiftprune/tune/tune_report.h"
#include "work_folder.h"

namespace swiftprune::cli {
namespace {

namespace fs = std::filesystem;

struct TuneFlags {
  CommonOptions common;
  std::string model, out;
  std::string text;  // as --calibration
  CalibrationText calibration;
  std::string budget;
  std::optional<double> max_kl, sparsity, ratio;
  std::string units;
  std::int64_t align = TuneOptions{}.align;
  std::string method{kDefaultMethod};
  std::string select;
  std::vector<std::string> parameters;
  std::vector<std::string> quantize;
  std::string group;
  std::vector<std::string> patterns;
  std::string embeddings;
  std::vector<std::string> skip;
  std::int64_t windows = 8, search_windows = 4;
  std::int64_t trials = TuneOptions{}.max_trials;
  double minutes = 10.0;
  std::string cache, work, report;
  std::string compute = "auto";
  DeviceFlags device;
  RankFlags ranks;
  bool dry_run = false;
};

// "3.25bits", "60tokens/s", or a size.
TuneBudget parse_budget(const std::string& text) {
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  unit.erase(0, unit.find_first_not_of(' '));
  if (error == std::errc() && (unit == "bits" || unit == "bit")) {
    if (!(number > 0.0 && number <= 16.0))
      bad_usage("--budget: found {}, expected 0 < bits a weight <= 16", text);
    return {TuneBudget::Kind::kBits, number};
  }
  if (unit == "t/s" || unit == "tok/s" || unit == "tokens/s" || unit == "tokens_per_s") {
    if (!(number > 0.0 && number <= 1e9)) bad_usage("--budget: found {}, expected a speed above 0", text);
    return {TuneBudget::Kind::kSpeed, number};
  }
  if (unit == "%") bad_usage("--budget: found {}, a share of zeros; say --sparsity {}", text, number / 100.0);
  if (error != std::errc() || !(number > 0.0))
    bad_usage(
        "--budget: found '{}', expected a size like 90MB, bits a weight like 3.25bits or a speed like "
        "60tokens/s",
        text);
  return {TuneBudget::Kind::kBytes, static_cast<double>(parse_bytes("--budget", text))};
}

TuneBudget budget_of(const TuneFlags& flags) {
  const int given = (flags.budget.empty() ? 0 : 1) + (flags.max_kl ? 1 : 0) + (flags.sparsity ? 1 : 0) +
                    (flags.ratio ? 1 : 0);
  const std::string_view share = flags.units.empty() ? "--sparsity" : "--ratio";
  if (given != 1) {
    bad_usage(
        "{}: found {} of --budget, --max-kl and {}, expected one: what the plan has to keep; the "
        "search looks for the best that keeps it",
        given == 0 ? std::string("--budget") : fmt::format("--budget, --max-kl, {}", share),
        given == 0 ? "none" : std::to_string(given), share);
  }
  if (flags.ratio) return {TuneBudget::Kind::kRatio, *flags.ratio};
  if (flags.sparsity) {
    if (!(*flags.sparsity > 0.0 && *flags.sparsity < 1.0))
      bad_usage("--sparsity: found {}, expected 0 < s < 1", *flags.sparsity);
    return {TuneBudget::Kind::kSparsity, *flags.sparsity};
  }
  if (flags.max_kl) {
    if (!(*flags.max_kl > 0.0)) bad_usage("--max-kl: found {}, expected a divergence above 0", *flags.max_kl);
    return {TuneBudget::Kind::kDivergence, *flags.max_kl};
  }
  return parse_budget(flags.budget);
}

// What means nothing to channels, heads and layers, and the other way round.
void check_units(const TuneFlags& flags) {
  const CLI::App& command = *flags.common.command;
  const auto refuse = [&](std::initializer_list<const char*> options, const char* with) {
    for (const char* option : options) {
      if (command.count(option) > 0) bad_usage("{}: found {}", option, with);
    }
  };
  if (flags.units.empty())
    return refuse({"--ratio", "--align"}, "without --units, which say what is to go: mlp, heads, layers");
  refuse({"--sparsity", "--quantize", "--patterns", "--group", "--quantize-embeddings", "--method",
          "--select", "--parameters", "--skip"},
         "with --units, whose plans take channels, heads and layers out; zeros and bits come after it, in "
         "another run of tune on the shrunk model");
  refuse({"--dry-run"}, "with --units; the search takes --minutes, and shrink --dry-run tells the rest");
}

bool writes_plan_alone(const TuneFlags& flags) { return flags.out.ends_with(".json"); }

void write_whole(const fs::path& file, const std::string& content) {
  const fs::path unfinished = file.parent_path() / fmt::format(".{}.partial", file.filename().string());
  write_report(unfinished.string(), content);
  fs::rename(unfinished, file);
}

// What the levels and the measured plans of a run depend on; the search itself may differ (trials, seed, time).
nlohmann::ordered_json identity_of(const TuneFlags& flags, const Model& model, const Device& device,
                                   const TuneText& text, const TuneOptions& options) {
  return {{"version", SWIFTPRUNE_VERSION},
          {"model", file_stamps(model.checkpoint())},
          {"budget", options.budget.text()},
          {"method", flags.method},
          {"select", flags.select},
          {"parameters", flags.parameters},
          {"units", flags.units},
          {"align", options.align},
          {"quantize", options.bits},
          {"patterns", flags.patterns},
          {"group", options.group},
          {"tables", options.table_bits},
          {"skip", options.skip},
          {"calibration", text.calibration.hash()},
          {"search", text.search.hash()},
          {"device", device.name()},
          {"compute", options.forward.compute == ComputeType::kBF16 ? "bf16" : "f32"},
          {"instruction_set", isa_name()}};
}

// The text of the search, with what else the command says of it and of the device.
void add_text_arguments(const TuneFlags& flags, std::int64_t windows, std::vector<std::string>& arguments) {
  for (const std::string& source : flags.calibration.sources)
    arguments.insert(arguments.end(), {"--calibration", source});
  arguments.insert(arguments.end(), {"--windows", std::to_string(windows), "--seqlen",
                                     std::to_string(flags.calibration.seqlen), "--seed",
                                     std::to_string(flags.calibration.seed)});
  const std::vector<std::string> own =
      repeat_options(*flags.common.command, {"--field", "--compute", "--device", "--gpu-memory"});
  arguments.insert(arguments.end(), own.begin(), own.end());
}

std::vector<std::string> prune_arguments(const TuneFlags& flags, const std::string& plan,
                                         const MethodSetup& setup, std::int64_t windows) {
  std::vector<std::string> arguments = {"swiftprune", "prune",    as_given(flags.common, flags.model),
                                        "--out",      "PRUNED",   "--plan",
                                        plan,         "--method", flags.method};
  if (!flags.select.empty()) arguments.insert(arguments.end(), {"--select", flags.select});
  if (setup.method.select == SelectKind::kEwma) {
    arguments.insert(arguments.end(), {"--ewma-alpha", fmt::format("{}", setup.selector.alpha), "--ewma-beta",
                                       fmt::format("{}", setup.selector.beta)});
  }
  if (!flags.embeddings.empty())
    arguments.insert(arguments.end(), {"--quantize-embeddings", flags.embeddings});
  add_text_arguments(flags, windows, arguments);
  return arguments;
}

std::vector<std::string> shrink_arguments(const TuneFlags& flags, const std::string& plan,
                                          std::int64_t windows) {
  std::vector<std::string> arguments = {
      "swiftprune", "shrink", as_given(flags.common, flags.model), "--out", "SHRUNK", "--plan", plan};
  add_text_arguments(flags, windows, arguments);
  return arguments;
}

void print_parameters(const ParameterSearch& search) {
  if (search.trials.empty()) return;
  fmt::print("parameters  {}\n", headline(search));
  for (const ParameterTrial& trial : search.trials) {
    if (trial.parameter.empty()) {
      fmt::print("            as it is: {:.4f} on the search's text, {:.4f} on the check's\n",
                 trial.search_kl, trial.check_kl);
      continue;
    }
    fmt::print("            {} {:g}: {:+.4f} (noise {:.4f}), {:.4f} on the check's{}\n", trial.parameter,
               trial.value, trial.difference, trial.noise, trial.check_kl, trial.taken ? ", taken" : "");
  }
}

void print_summary(const TuneReport& report, const std::string& out) {
  const TunedPlan& r = report.result;
  fmt::print("plan        {}\nbudget      {}: {}\n", out, report.budget.text(),
             r.keeps_budget ? "kept" : "NOT kept");
  print_parameters(r.parameters);
  fmt::print("found       {}\n", headline(report));
  if (r.dense_tokens_per_second) {
    fmt::print("speed       {:.1f} tokens/s, {}; the dense model {:.1f}\n", *r.best.tokens_per_second,
               r.layers ? "expected" : "measured with stand-ins", *r.dense_tokens_per_second);
  }
  fmt::print("text        {} tokens to solve on, {} to search on, {} to check on, of {}\n",
             report.calibration_tokens, report.search_tokens, report.check_tokens, report.text);
  fmt::print("time        {:.0f} s for {} {} at up to {} levels, {:.0f} s for {} plans; ended by: {}\n\n",
             r.solve_seconds, r.tuned, r.layers ? "layers" : "linears", r.levels, r.search_seconds, r.trials,
             r.ended);
  const bool timed = r.dense_tokens_per_second.has_value();
  const std::string head = r.layers ? fmt::format("{:>8} {:>10}", "gone", "size")
                                    : fmt::format("{:>8} {:>8} {:>10}", "zeros", "bits", "packed");
  fmt::print("{:<12} {} {:>11} {:>11}{}\n", "plan", head, "KL, search", "KL, check",
             timed ? "    tokens/s" : "");
  const auto row = [timed](const TunePoint& p) {
    const std::string what = p.ratio ? fmt::format("{:>6.1f} %", 100.0 * *p.ratio)
                                     : fmt::format("{:>6.1f} % {:>8.2f}", 100.0 * p.sparsity, p.bits);
    fmt::print("{:<12} {} {:>10} {:>11.4f} {:>11}{}\n", p.name, what, human_bytes(p.bytes), p.search_kl,
               p.check_kl ? fmt::format("{:.4f}", *p.check_kl) : "–",
               timed ? fmt::format(" {:>11.1f}", *p.tokens_per_second) : "");
  };
  row(r.start);
  if (r.line.empty()) row(r.best);
  for (const TunePoint& point : r.line) row(point);
  fmt::print("\nRecommended:\n  {}\n", report.command);
}

void check_outputs(const TuneFlags& flags) {
  if (writes_plan_alone(flags)) {
    check_output_file("--out", flags.out);
  } else {
    check_new_folder(flags.out);
  }
  check_output_file("--report", flags.report);
}

void write_outputs(const TuneFlags& flags, const TuneReport& report) {
  const std::string plan = plan_document(report.result).dump(1) + "\n";
  if (writes_plan_alone(flags)) {
    write_whole(flags.out, plan);
  } else {
    const fs::path unfinished = partial_folder(flags.out);
    fs::remove_all(unfinished);
    fs::create_directories(unfinished);
    write_report((unfinished / "plan.json").string(), plan);
    write_report((unfinished / "tune.json").string(), to_json(report).dump(1) + "\n");
    write_report((unfinished / "tune.html").string(), to_html(report));
    fs::remove(flags.out);  // an empty folder
    fs::rename(unfinished, flags.out);
  }
  if (!flags.report.empty()) write_report(flags.report, to_html(report));
}

double bytes_in(const fs::path& folder) {
  double bytes = 0.0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && !entry.is_symlink()) bytes += static_cast<double>(entry.file_size());
  }
  return bytes;
}

// What solving the levels takes, measured on the first blocks in a folder of its own; the search takes the time that it
// is given.
void dry_run(const TuneFlags& flags, const Model& model, Device& device, const TuneText& text,
             TuneOptions options) {
  constexpr std::string_view kStage = "prune";  // what solving tells as progress
  const bool tries_parameters = !std::exchange(options.parameters, {}).empty();
  const TemporaryFolder work(make_work_folder(flags.cache.empty() ? flags.work : ""));
  options.folder = work.path();
  // The room for all levels is taken at the start.
  double disk = 0.0;
  const ProgressFn outer = [&disk, &work, shown = options.forward.progress](
                               std::string_view stage, std::int64_t done, std::int64_t total) {
    shown(stage, done, total);
    if (stage == kStage) disk = std::max(disk, bytes_in(work.path()));
  };
  const BlockTime trial = time_first_blocks(kStage, outer, [&](const ProgressFn& progress) {
    options.forward.progress = progress;
    tune(model, device, text, options);
  });
  const fs::path folder = !flags.cache.empty()  ? fs::path(flags.cache)
                          : !flags.work.empty() ? fs::path(flags.work)
                                                : fs::temp_directory_path();
  const bool writes_text = flags.calibration.is_self();
  clear_progress();
  if (flags.common.json) {
    print_json({{"dry_run", true},
                {"budget", options.budget.text()},
                {"tokens",
                 {{"solve", text.calibration.ids.size()},
                  {"search", text.search.ids.size()},
                  {"check", text.check.ids.size()}}},
                {"estimate",
                 {{"solve_seconds", trial.of_all()},
                  {"trial_blocks", trial.blocks},
                  {"trial_seconds", trial.seconds},
                  {"most_seconds", std::max(trial.of_all(), options.max_seconds)},
                  {"most_trials", options.max_trials},
                  {"memory_bytes", peak_memory()},
                  {"disk_bytes", disk},
                  {"free_disk_bytes", free_bytes(folder)}}}});
    return;
  }
  fmt::print("dry run     nothing is written; {} blocks, family {}\n", model.config().num_layers(),
             model.config().family);
  fmt::print("budget      {}\n", options.budget.text());
  fmt::print("text        {} tokens to solve on, {} to search on, {} to check on, of {}\n",
             text.calibration.ids.size(), text.search.ids.size(), text.check.ids.size(),
             flags.calibration.source());
  fmt::print("time        about {:.3g} s to solve the levels ({} of {} blocks took {:.3g} s){}\n",
             trial.of_all(), trial.blocks, trial.total, trial.seconds,
             writes_text ? ", and what the model takes to write the text" : "");
  if (tries_parameters) {
    fmt::print("            before them parameters, until {:.3g} of the minutes are over\n",
               kParameterShare * flags.minutes);
  }
  fmt::print("            then the search: {} plans at most, until the {:.3g} minutes are over\n",
             options.max_trials, flags.minutes);
  fmt::print("memory      {} at the most in these blocks; {} available\n", human_bytes(peak_memory()),
             human_bytes(read_memory().available));
  fmt::print("disk        about {} for the levels in {}{}, {} free\n", human_bytes(disk), folder.string(),
             flags.cache.empty() ? " while it runs" : "", human_bytes(free_bytes(folder)));
}

// For levels and plans: the first rank's, also where it is a temporary one.
fs::path levels_folder(const TuneFlags& flags, std::optional<TemporaryFolder>& work, Communicator& ranks) {
  if (!flags.cache.empty()) {
    if (ranks.is_first()) fs::create_directories(flags.cache);
    return flags.cache;
  }
  if (ranks.is_first()) work.emplace(make_work_folder(flags.work));
  std::string path = work ? work->path().string() : std::string();
  broadcast_text(ranks, 0, path);
  return path;
}

void run(TuneFlags& flags, Communicator& ranks) {
  const RunScope job = apply(flags.common);
  if (flags.dry_run) check_one_process(ranks, "--dry-run", "leave --ranks out");
  check_units(flags);
  TuneOptions options;
  options.budget = budget_of(flags);
  if (!flags.units.empty()) options.units = parse_units(flags.units);
  options.align = flags.align;
  Method method = method_by_name(flags.method);
  if (!flags.select.empty()) method.select = parse_select(flags.select);
  options.method = &method;
  options.parameters = flags.parameters;
  for (const std::string& bits : flags.quantize) options.bits.push_back(bits.back() - '0');
  if (!flags.embeddings.empty() && flags.quantize.empty())
    bad_usage("--quantize-embeddings: found {} without --quantize", flags.embeddings);
  for (const std::string& pattern : flags.patterns) options.patterns.push_back(parse_pattern(pattern));
  if (!options.parameters.empty()) chosen_parameters(setup_of(options, flags.windows), options.parameters);
  options.table_bits = flags.embeddings.empty() ? 0 : flags.embeddings == "int8" ? 8 : 4;
  options.skip = flags.skip;
  options.max_trials = flags.trials;
  options.max_seconds = 60.0 * flags.minutes;
  options.seed = flags.calibration.seed;
  if (!flags.text.empty()) {
    if (!flags.calibration.is_self())
      bad_usage("--text: found beside --calibration, which is the same; leave one of them out");
    flags.calibration.sources = {flags.text};
  }
  const auto device = open_device(flags.device);
  if (ranks.is_first()) check_outputs(flags);
  const auto model = open_model(flags.common, flags.model);
  check_outside("--out", flags.out, flags.model);
  device->check_model(*model);
  options.group = flags.group.empty()    ? default_group(model->config())
                  : flags.group == "row" ? 0
                                         : std::stoll(flags.group);
  flags.calibration.fit_to(*model);
  check_same_run(ranks, *flags.common.command, std::array{&model->checkpoint()}, *device);
  options.forward.compute = compute_by_name(flags.compute, *device);
  options.forward.progress = job.context().progress;
  const std::int64_t num_windows = flags.windows + flags.search_windows;
  const TokenWindows windows =
      flags.dry_run && flags.calibration.is_self()
          ? stand_in_windows(*model, num_windows, flags.calibration.seqlen)
          : calibration_windows(notes_to(flags.common), *model, *device, flags.calibration, num_windows, true,
                                options.forward.compute, options.forward.progress);
  const TuneText text = split_for_tuning(windows, flags.windows, flags.calibration.source());
  if (flags.dry_run) return dry_run(flags, *model, *device, text, options);
  if (ranks.size() > 1) check_same_on_ranks(ranks, {{"text", windows.hash()}});

  std::optional<TemporaryFolder> work;
  options.folder = levels_folder(flags, work, ranks);
  options.identity = identity_of(flags, *model, *device, text, options);

  TuneReport report;
  report.model = as_given(flags.common, flags.model);
  report.text = flags.calibration.source();
  report.budget = options.budget;
  report.calibration_tokens = std::ssize(text.calibration.ids);
  report.search_tokens = std::ssize(text.search.ids);
  report.check_tokens = std::ssize(text.check.ids);
  report.seed = options.seed;
  report.result = tune(*model, *device, text, options, ranks);
  if (!ranks.is_first()) return;
  const std::string plan =
      writes_plan_alone(flags) ? flags.out : (fs::path(flags.out) / "plan.json").string();
  const MethodSetup& setup = report.result.setup;
  const bool finds_windows = !report.result.parameters.found.empty() && setup.windows != flags.windows;
  const std::int64_t all_windows = std::clamp<std::int64_t>(
      flags.units.empty() ? method.windows : ShrinkJob{}.windows, 1, windows.num_windows());
  report.command = shell_command(
      flags.units.empty() ? prune_arguments(flags, plan, setup, finds_windows ? setup.windows : all_windows)
                          : shrink_arguments(flags, plan, all_windows));
  report.commands = {report.command};
  if (flags.units.empty() && flags.quantize.empty())
    report.commands.push_back("swiftprune pack PRUNED --out PACKED");
  report.commands.push_back(shell_command(repeat_arguments(*flags.common.command)));
  write_outputs(flags, report);
  give_page([&report] { return to_html(report); });
  if (report.result.interrupted()) {
    throw Interrupted(
        fmt::format("{} holds the best of the {} plans that were measured", flags.out, report.result.trials));
  }
  if (flags.common.json) {
    print_json(to_json(report));
  } else {
    print_summary(report, plan);
  }
}

void add_budget_flags(CLI::App& command, TuneFlags& f) {
  command.add_option("--budget", f.budget,
                     "What the packed model may take: a size of all of it (90MB), bits a weight of its "
                     "linears (3.25bits), or "
                     "the tokens a second at least that one sequence decodes on this device, measured "
                     "(60tokens/s); the plan of "
                     "least divergence from the dense model is searched for");
  command.add_option(
      "--max-kl", f.max_kl,
      "Instead: the smallest plan whose divergence from the dense model, in nats a token on the search's "
      "text, stays within this");
  command
      .add_option("--sparsity", f.sparsity,
                  "Instead: the mean share of zeros, 0 < s < 1, or in percent, spread in the best way")
      ->transform(share());
  command
      .add_option(
          "--ratio", f.ratio,
          "Instead, with --units: share of the blocks' weights to take out, 0 < r < 1, or in percent: "
          "20%")
      ->transform(share());
  command.add_option(
      "--units", f.units,
      "Instead of zeros: what goes of each layer, mlp (channels), heads (whole key-head groups), "
      "layers (all of it), or several of them with commas; the plan is for shrink --plan");
  command.add_option("--align", f.align, "With --units: the MLP's width becomes a multiple of this")
      ->capture_default_str()
      ->check(in_range(std::int64_t{1}, std::int64_t{1} << 20));
  command
      .add_option(
          "--quantize", f.quantize,
          "Choose bits for each linear, too, among these: int8, int4, int3; with --method best or admm")
      ->delimiter(',')
      ->transform(one_of({"int8", "int4", "int3"}));
  command
      .add_option(
          "--patterns", f.patterns,
          "Instead of shares of zeros: each linear stays without zeros or takes one of these, such as "
          "2:4,6:8")
      ->delimiter(',')
      ->check(a_pattern());
  command.add_option("--group", f.group, std::string(kGroupHelp))->transform(one_of(option_values::kGroup));
  command
      .add_option("--quantize-embeddings", f.embeddings,
                  "With --quantize: embedding and output projection in int8 or int4, too")
      ->transform(one_of(option_values::kTables));
}

}  // namespace

void declare_tune(CLI::App& program) {
  auto flags = std::make_shared<TuneFlags>();
  TuneFlags& f = *flags;
  CLI::App* command = program.add_subcommand(
      "tune", "Search the plan (sparsity and bits of each linear) that keeps a budget at the least loss");
  add_model_argument(*command, f.common, "MODEL", f.model, kModelHelp)->required();
  command
      ->add_option("-o,--out", f.out,
                   "Folder to write (plan.json for prune --plan or shrink --plan, tune.json, tune.html), or "
                   "a file ending in "
                   ".json for the "
                   "plan alone")
      ->required();
  add_budget_flags(*command, f);
  command->add_option("--text", f.text, "Your text; the same as --calibration");
  add_calibration_flags(*command, f.calibration);
  command->add_option("--windows", f.windows, "Calibration windows that each linear's levels are solved on")
      ->check(in_range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--search-windows", f.search_windows,
                   "Further windows: plans are measured on half of their text, and checked on the other half")
      ->check(in_range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--method", f.method, "Preset; swiftprune methods lists them")
      ->capture_default_str()
      ->transform(a_method());
  command->add_option("--select", f.select, "Selection, instead of the method's, as in prune");
  command
      ->add_option("--parameters", f.parameters,
                   "First search the method's own numbers on the start plan: auto, or some of alpha, beta, "
                   "steps, damping, rho, swaps, exponent, ewma-alpha, ewma-beta, windows with commas (those "
                   "that the method has); in three tenths of the time at most")
      ->delimiter(',');
  command->add_option("--skip", f.skip, "Leave tensors as they are: a shell pattern; repeatable");
  command->add_option("--trials", f.trials, "Plans to measure at most")
      ->check(in_range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  command
      ->add_option("--minutes,--time", f.minutes,
                   "Time for everything; the best plan so far is taken when it is over")
      ->capture_default_str()
      ->check(more_than_zero());
  command->add_option(
      "--cache", f.cache,
      "Folder where levels and measured plans are kept; the same run later goes on with them");
  command->add_option("--work", f.work,
                      "Without --cache: folder for the levels, which take several times the model's size");
  command->add_option("--report", f.report, "Write the page to this file, too");
  command->add_flag(
      "--dry-run", f.dry_run,
      "Tell the time, memory and disk it takes, measured on the first blocks, whose levels then go again; "
      "write nothing");
  add_compute_flag(*command, f.compute);
  add_device_flags(*command, f.device);
  add_rank_flags(*command, f.common, f.ranks);
  add_common_options(*command, f.common);
  command->footer(
      "Examples:\n"
      "  swiftprune tune ./SmolLM2-135M --text own.jsonl --sparsity 0.7 -o tuned\n"
      "  swiftprune tune ./SmolLM2-135M --text own.jsonl --budget 90MB --quantize int8,int4,int3 -o "
      "plan.json\n"
      "  swiftprune tune ./SmolLM2-135M --text own.jsonl --sparsity 0.7 --parameters auto -o tuned\n"
      "  swiftprune tune ./Llama-2-7b-hf --text own.jsonl --budget 300tokens/s --patterns 2:4,6:8 --device "
      "cuda "
      "-o tuned\n"
      "  swiftprune tune ./Llama-2-7b-hf --text own.jsonl --sparsity 0.7 -o tuned --gpus 2\n"
      "  swiftprune tune ./SmolLM2-135M --text own.jsonl --units mlp,heads,layers --ratio 0.2 -o tuned\n"
      "  swiftprune prune ./SmolLM2-135M --plan tuned/plan.json --out pruned --calibration own.jsonl");
  command->callback([flags] {
    run_in_ranks(flags->common, flags->ranks, flags->device.device,
                 [&](Communicator& ranks) { run(*flags, ranks); });
  });
}

}  // namespace swiftprune::cli
