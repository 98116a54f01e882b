// swiftprune prune: a checkpoint folder in, a pruned checkpoint folder out.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "calibration_text.h"
#include "command.h"
#include "gate_flags.h"
#include "model_text.h"
#include "option_echo.h"
#include "prune_dry_run.h"
#include "ranks.h"
#include "swiftprune/calibration/stopping.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/device/device.h"
#include "swiftprune/evaluation/evaluation_text.h"
#include "swiftprune/masking/zero_scan.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/grid_output.h"
#include "swiftprune/pipeline/journal.h"
#include "swiftprune/pipeline/record.h"

namespace swiftprune::cli {
namespace {

struct PruneFlags {
  CommonOptions common;
  std::string model;
  std::string out;
  std::string method{kDefaultMethod};
  std::string score, select, refine, propagate;  // empty: the method's
  double sparsity = 0.5;
  std::string pattern = "row";
  std::string permute;   // empty: the plan file's, or none
  std::string allocate;  // empty: the method's
  std::string quantize;  // int8, int4 or int3; empty: none
  std::string group;     // of --quantize; empty: its default
  bool asymmetric = false;
  std::string store;       // packed or dense; empty: packed
  std::string embeddings;  // of a packed model: int8 or int4; empty: as they are
  CalibrationText calibration;
  std::string windows;  // a number, "auto", or empty: the method's
  std::string compute = "auto";
  DeviceFlags device;
  RankFlags ranks;
  std::vector<std::string> skip;
  std::vector<std::pair<std::string, std::string>> overrides;  // shell pattern of names, settings
  std::string plan_file;
  std::optional<double> lambda;
  double alpha = SelectorOptions{}.alpha;
  double beta = SelectorOptions{}.beta;
  PruneGate gate;
  std::int64_t min_expert_tokens = kMinExpertTokens;
  bool sparsity_given = false;
  bool resume = false;
  bool dry_run = false;
};

std::optional<QuantGrid> grid_of(const PruneFlags& flags) {
  if (flags.quantize.empty() && flags.group.empty() && !flags.asymmetric) return std::nullopt;
  if (flags.quantize.empty()) {
    bad_usage("{}: found without --quantize, which it is about; add --quantize int4, say",
              flags.group.empty() ? "--asymmetric" : "--group");
  }
  const std::string group = flags.group.empty() ? fmt::format("{}", QuantGrid{}.group) : flags.group;
  return parse_grid(fmt::format("{}({}{})", flags.quantize, group, flags.asymmetric ? ",asymmetric" : ""),
                    "--quantize");
}

Plan make_plan(const Model& model, const PruneFlags& flags, const Method& method) {
  PlanDefaults defaults;
  defaults.pattern = parse_pattern(flags.pattern);
  defaults.sparsity = flags.sparsity;
  const bool n_m = defaults.pattern.kind == Pattern::Kind::kNofM;
  if (flags.sparsity_given && contradicts(defaults.pattern, flags.sparsity)) {
    bad_usage("--sparsity: found {}, but --pattern {} fixes it; leave --sparsity out", flags.sparsity,
              flags.pattern);
  }
  defaults.score = !flags.score.empty() ? parse_score(flags.score) : n_m ? method.n_m_score : method.score;
  defaults.refine = !flags.refine.empty() ? parse_refine(flags.refine) : method.refine;
  defaults.grid = grid_of(flags);
  if (flags.allocate == "sensitivity") {
    if (!flags.plan_file.empty())
      bad_usage("--allocate: found sensitivity, but --plan fixes the sparsities; leave one of them out");
    if (n_m && defaults.pattern.m < kLeastAllocatedGroup) {
      bad_usage(
          "--allocate: found sensitivity with --pattern {}, expected an unstructured pattern or N:M with M "
          ">= {}",
          flags.pattern, kLeastAllocatedGroup);
    }
  }
  Plan plan = uniform_plan(model, defaults, flags.skip);
  if (!flags.plan_file.empty()) apply_plan_file(flags.plan_file, plan);
  for (const auto& [name_pattern, settings] : flags.overrides) apply_override(name_pattern, settings, plan);
  if (!flags.permute.empty()) plan.permute = parse_permute(flags.permute, "--permute");
  return plan;
}

std::int64_t parse_windows(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > (1 << 20))
    bad_usage("--windows: found '{}', expected auto or a number from 1 to {}", text, 1 << 20);
  return value;
}

// As many as were asked for, else as the method takes on this device.
std::int64_t counted_windows(const PruneFlags& flags, const Model& model, const Device& device,
                             const Method& method) {
  if (!flags.windows.empty() && flags.windows != "auto") return parse_windows(flags.windows);
  if (flags.calibration.is_self()) return std::max(1, method.windows);  // written token by token
  return device.default_windows(method, model, flags.calibration.seqlen);
}

// The windows that the run reads, and for --windows auto what was measured.
struct Calibration {
  TokenWindows windows;
  std::optional<StableWindows> stopping;
};

Calibration calibrate(const Model& model, Device& device, const PruneFlags& flags, const Method& method,
                      const Plan& plan, const PruneOptions& options) {
  constexpr std::int64_t kMostByItself = 64;  // windows of --windows auto
  Calibration result;
  if (flags.windows != "auto") {
    const bool counted =
        !flags.windows.empty();  // only what was asked for is refused when the text is shorter
    const std::int64_t count = counted_windows(flags, model, device, method);
    result.windows = calibration_windows(flags.common, model, device, flags.calibration, count, !counted,
                                         options.compute, options.progress);
    if (result.windows.num_windows() < count) {
      print_note(flags.common, fmt::format("the text fills {} of the {} windows that --method {} takes here",
                                           result.windows.num_windows(), count, method.name));
    }
    return result;
  }
  const bool self = flags.calibration.is_self();
  result.windows = calibration_windows(flags.common, model, device, flags.calibration,
                                       self ? counted_windows(flags, model, device, method) : kMostByItself,
                                       true, options.compute, options.progress);
  const double tolerance = calibration_needs(plan).gram ? kGramTolerance : kScoreTolerance;
  const auto energies = device.input_energies(model, result.windows, options.compute);
  result.stopping = windows_until_stable(model, *energies, result.windows, tolerance, options.progress);
  result.windows.ids.resize(static_cast<std::size_t>(result.stopping->windows * flags.calibration.seqlen));
  return result;
}

// Text that the model is still to write is not written for a dry run, nor is it looked for how much suffices.
void dry_run(const PruneFlags& flags, const Model& model, Device& device, const Method& method,
             const Plan& plan, bool allocates, bool packs, const PruneOptions& options) {
  const bool writes_text = flags.calibration.is_self();
  TokenWindows windows;
  if (needs_calibration(plan) || allocates) {
    if (writes_text) {
      windows =
          stand_in_windows(model, counted_windows(flags, model, device, method), flags.calibration.seqlen);
    } else {
      windows = calibrate(model, device, flags, method, plan, options).windows;
    }
  }
  print_dry_run({.common = flags.common,
                 .out = flags.out,
                 .calibration = flags.calibration.source(),
                 .writes_text = writes_text && windows.num_windows() > 0,
                 .allocates = allocates,
                 .packs = packs},
                model, device, plan, windows, options);
}

// Nothing is measured of experts: a model that has them is pruned alike everywhere, unless a plan says otherwise.
bool allocates(const PruneFlags& flags, const Method& method, const Model& model) {
  if (flags.allocate == "sensitivity") {
    check_without_experts(
        model.config(), "--allocate sensitivity",
        "leave it out: the sparsity is then the same everywhere; --plan and --override set others");
  }
  if (!flags.allocate.empty()) return flags.allocate == "sensitivity";
  if (model.config().has_experts()) return false;
  const Pattern::Kind kind = parse_pattern(flags.pattern).kind;
  return method.allocates && flags.sparsity > 0.0 && flags.plan_file.empty() &&
         (kind == Pattern::Kind::kRow || kind == Pattern::Kind::kLayer);
}

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
      pooled += tokens < flags.min_expert_tokens ? 1 : 0;
      never += tokens == 0 ? 1 : 0;
    }
  }
  fmt::print("experts     {} of {} by the tokens that were sent to them", experts - pooled, experts);
  if (pooled > 0) {
    fmt::print("; {} with fewer than {} ({} with none) by all tokens of their layer", pooled,
               flags.min_expert_tokens, never);
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

void print_summary(const PruneFlags& flags, const ModelConfig& model, const Plan& plan,
                   const PruneResult& result, const CalibrationRecord& calibration,
                   const std::optional<Allocation>& allocation, const PackReport& packing, double seconds) {
  const StageSeconds& s = result.seconds;
  fmt::print("{}      {}\n", flags.quantize.empty() ? "pruned" : "solved", flags.out);
  fmt::print("sparsity    {:.2f} % of the blocks' linears, pattern {}\n", 100.0 * result.sparsity,
             flags.pattern);
  if (const auto grid = grid_of(flags)) fmt::print("grid        {}\n", format(*grid));
  if (!packing.linears.empty()) {
    double weights = 0.0;
    for (const TensorResult& tensor : result.tensors)
      weights += static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
    fmt::print("size        {} -> {}, {:.2f} bits a weight of the linears on grids\n",
               human_bytes(static_cast<double>(packing.source_bytes)),
               human_bytes(static_cast<double>(packing.target_bytes)),
               8.0 * static_cast<double>(packing.packed_bytes) / weights);
  }
  fmt::print("method      {} ({})\n", flags.method,
             result.weights_changed ? "kept weights refined" : "kept weights unchanged");
  if (plan.permute != Permute::kNone) {
    const auto changed = std::count_if(result.tensors.begin(), result.tensors.end(),
                                       [](const TensorResult& tensor) { return !tensor.order.empty(); });
    fmt::print("channels    inputs of {} linears in an order that loses less\n", changed);
  }
  print_experts(flags, plan, result);
  print_mixers(model);
  if (calibration.windows > 0) {
    fmt::print("calibration {} windows of {} tokens from {}\n", calibration.windows, calibration.seqlen,
               calibration.source);
  }
  fmt::print(
      "time        {:.1f} s: {}calibrate {:.1f}, score {:.2f}, select {:.2f}, refine {:.1f}, read and write "
      "{:.1f}\n",
      seconds, allocation ? fmt::format("allocate {:.1f}, ", allocation->seconds) : "", s.calibrate, s.score,
      s.select, s.refine, s.load + s.write);
  std::vector<std::vector<std::string>> next = {{"swiftprune", "eval", flags.out, "--text", "FILE"}};
  if (packing.linears.empty()) next.insert(next.begin(), {"swiftprune", "verify", flags.model, flags.out});
  print_next(flags.common, next);
}

// Whatever changes a byte of the output: only a run of the same may go on with its blocks. plan: as the
// options and the --plan file make it, before it is allocated.
nlohmann::ordered_json identity_of(const PruneFlags& flags, const Model& model, const Device& device,
                                   const PruneOptions& options, const Plan& plan,
                                   const CalibrationRecord& calibration) {
  return {{"version", SWIFTPRUNE_VERSION},
          {"options", byte_options(*flags.common.command)},
          {"plan", sha256_hex(to_json(plan).dump())},
          {"model", file_stamps(model.checkpoint())},
          {"calibration", calibration.ids},
          {"device", device.name()},
          {"compute", options.compute == ComputeType::kBF16 ? "bf16" : "f32"},
          {"instruction_set", isa_name()}};
}

// What an unfinished run had otherwise, in words.
std::string difference(const nlohmann::ordered_json& before, const nlohmann::ordered_json& now) {
  const auto differs = [&](const char* key) { return !before.contains(key) || before[key] != now[key]; };
  if (!before.is_object() || differs("version")) return "another version of swiftprune";
  if (differs("model")) return "another model";
  if (differs("calibration")) return "other calibration text";
  if (!before.contains("options") || !before["options"].is_object()) return "other options";
  const auto& options = before["options"];
  std::string names;
  for (const auto& [name, value] : now["options"].items()) {
    if (options.contains(name) && options[name] == value) continue;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name == "MODEL" ? name : "--" + name);
  }
  if (!names.empty()) return "other options: " + names;
  return differs("plan") ? "another plan" : "another device or precision";
}

std::optional<UnfinishedRun> find_unfinished(const PruneFlags& flags, const CheckpointWriter& writer,
                                             const nlohmann::ordered_json& identity) {
  auto unfinished = writer.continues() ? read_journal(writer.temporary_folder()) : std::nullopt;
  if (!unfinished) {
    print_note(flags.common, fmt::format("--resume: no unfinished run for {}; starting one", flags.out));
    return std::nullopt;
  }
  const nlohmann::ordered_json& head = unfinished->head;
  const bool whole = head.is_object() && head.contains("identity") && head.contains("plan");
  if (!whole || head["identity"] != identity) {
    bad_usage(
        "--resume: the unfinished run for {} had {}; repeat its command, or leave --resume out to start "
        "again",
        flags.out, difference(whole ? head["identity"] : nlohmann::ordered_json(), identity));
  }
  print_note(flags.common,
             fmt::format("--resume: going on behind {} finished blocks", unfinished->blocks.size()));
  return unfinished;
}

std::string blocks_kept(std::size_t count) {
  return fmt::format("{} finished block{} kept; the same command goes on with {}", count,
                     count == 1 ? " is" : "s are", count == 1 ? "it" : "them");
}

// A later --resume goes on with what an error or an interrupt leaves.
PruneResult keeping_blocks(Journal& journal, const CheckpointWriter& writer, bool resumable,
                           const std::function<PruneResult()>& prune) {
  try {
    return prune();
  } catch (const Error& error) {
    if (!resumable) throw;
    journal.flush();
    const auto unfinished = read_journal(writer.temporary_folder());
    if (!unfinished || unfinished->blocks.empty() || dynamic_cast<const Interrupted*>(&error) != nullptr)
      throw;
    throw Error(error.kind(), fmt::format("{}; {}", error.what(), blocks_kept(unfinished->blocks.size())));
  }
}

// Share of the plan's weights that are zero in the model as it comes.
double sparsity_before(const Model& model, const Plan& plan) {
  double zeros = 0.0, weights = 0.0;
  const StoredWeights stored(model.checkpoint());
  for (const PlanEntry& entry : plan.entries) {
    const StoredWeights::Info info = stored.info(entry.tensor);
    const std::vector<std::byte> bytes = stored.bytes(entry.tensor);
    zeros += scan_zeros({bytes.data(), info.dtype, info.rows, info.cols, info.cols}).sparsity() *
             entry.num_weights();
    weights += entry.num_weights();
    stored.release(entry.tensor);
  }
  return weights > 0.0 ? zeros / weights : 0.0;
}

// Zeros stay zeros: a model that is sparser than asked comes out as it went in.
void note_sparser(const PruneFlags& flags, const Model& model, const Plan& plan, double sparsity) {
  constexpr double kNoticeable = 0.01;
  if (!takes_notes(flags.common) || sparsity <= plan.sparsity() + kNoticeable) return;
  const double before = sparsity_before(model, plan);
  if (before <= plan.sparsity() + kNoticeable) return;
  print_note(flags.common,
             fmt::format("{} had {:.2f} % zeros already, more than the {:.2f} % that were asked "
                         "for; zeros are never filled again",
                         as_given(flags.common, flags.model), 100.0 * before, 100.0 * plan.sparsity()));
}

// What another rank than the first one writes: nothing.
class PeerOutput final : public PruneOutput {
 public:
  explicit PeerOutput(bool keeps_grids) : keeps_grids_(keeps_grids) {}
  void write_part(const std::string&, std::int64_t, std::span<const std::byte>) override {}
  bool keeps_grids() const override { return keeps_grids_; }
  void write_quantized(const std::string&, const QuantizedWeight&) override {}

 private:
  bool keeps_grids_;
};

// What ranks cannot do yet.
void check_ranks(const PruneFlags& flags, const Communicator& ranks) {
  if (ranks.size() == 1) return;
  const auto refuse = [&](std::string_view flag, std::string_view instead) {
    bad_usage("{}: found with {} ranks, expected one process; {}", flag, ranks.size(), instead);
  };
  if (flags.dry_run) refuse("--dry-run", "leave --ranks out");
  if (!flags.gate.text.empty()) refuse("--gate", "measure afterwards: swiftprune compare");
}

// The first rank's unfinished run, to all.
void share_unfinished(Communicator& ranks, std::optional<UnfinishedRun>& unfinished) {
  if (ranks.size() == 1) return;
  std::string text = unfinished ? journal_text(*unfinished) : std::string();
  broadcast_text(ranks, 0, text);
  std::istringstream lines(text);
  if (!ranks.is_first()) unfinished = read_journal(lines);
}

void run(PruneFlags& flags, Communicator& ranks) {
  const RunScope job = apply(flags.common);
  check(flags.gate);
  check_ranks(flags, ranks);
  check_outside("--out", flags.out, flags.model);
  const auto start = std::chrono::steady_clock::now();
  const auto device = open_device(flags.device);
  const Method& method = method_by_name(flags.method);
  const auto model = open_model(flags.common, flags.model);
  flags.calibration.fit_to(*model);
  device->check_model(*model);
  std::future<nlohmann::ordered_json> hashes;
  if (device->leaves_processor_free()) {
    hashes = std::async(std::launch::async, [&model, context = current_run()] {
      const RunScope scope(context);
      return model_hashes(model->checkpoint());
    });
  }
  Plan plan = make_plan(*model, flags, method);
  const bool allocate = allocates(flags, method, *model);

  PruneOptions options;
  options.select = flags.select.empty() ? method.select : parse_select(flags.select);
  options.selector.lambda = flags.lambda;
  options.selector.alpha = flags.alpha;
  options.selector.beta = flags.beta;
  options.propagation = method.propagation;
  if (!flags.propagate.empty())
    options.propagation = flags.propagate == "dense" ? Propagation::kDense : Propagation::kPruned;
  options.compute = parse_compute(flags.compute, *device);
  options.min_expert_tokens = flags.min_expert_tokens;
  options.progress = job.context().progress;
  options.ranks = &ranks;
  device->check_plan(*model, plan, options);

  const bool packs = plan.quantizes() && flags.store != "dense";
  if (!flags.store.empty() && !plan.quantizes())
    bad_usage("--store: found {} without --quantize, which it is about", flags.store);
  PackOptions tables;
  if (!flags.embeddings.empty()) {
    if (!packs) {
      bad_usage("--quantize-embeddings: found {} with what is no packed model; {}", flags.embeddings,
                plan.quantizes() ? "leave --store dense out" : "add --quantize, or use swiftprune pack");
    }
    tables.table_bits = flags.embeddings == "int8" ? 8 : 4;
    tables.tables = tables_of(model->config());
  }

  if (flags.dry_run) return dry_run(flags, *model, *device, method, plan, allocate, packs, options);
  if (ranks.size() > 1) {
    check_same_on_ranks(ranks, {{"command", byte_options(*flags.common.command)},
                                {"plan", sha256_hex(to_json(plan).dump())},
                                {"model", sampled_files(model->checkpoint())},
                                {"device", device->name()},
                                {"instruction set", isa_name()}});
  }

  // The output is claimed before the work, so that a wrong path costs nothing. Of a packed model only the pruned
  // tensors stand there at first. The first rank writes.
  std::optional<CheckpointWriter> of_first;
  if (ranks.is_first()) {
    of_first.emplace(flags.out,
                     packs ? stage_plan(model->checkpoint(), plan) : plan_like(model->checkpoint()),
                     flags.resume ? Leftover::kContinue : Leftover::kDiscard);
    if (flags.resume) of_first->keep_when_unfinished();
  }
  Calibration calibrated;
  CalibrationRecord calibration{"none", "", 0, 0, flags.calibration.seed};
  if (needs_calibration(plan) || allocate) {
    calibrated = calibrate(*model, *device, flags, method, plan, options);
    calibration = flags.calibration.record(calibrated.windows);
    calibration.stopping = calibrated.stopping;
  }
  if (ranks.size() > 1) check_same_on_ranks(ranks, {{"calibration text", calibration.ids}});
  const nlohmann::ordered_json identity = identity_of(flags, *model, *device, options, plan, calibration);
  std::optional<Allocation> allocation;
  std::optional<UnfinishedRun> unfinished =
      flags.resume && of_first ? find_unfinished(flags, *of_first, identity) : std::nullopt;
  share_unfinished(ranks, unfinished);
  if (unfinished) {
    options.finished = std::move(unfinished->blocks);
    apply_plan(unfinished->head.at("plan"), Journal::kFileName, plan);
    if (unfinished->head.contains("sensitivities"))
      allocation = Allocation{unfinished->head.at("sensitivities").get<std::vector<double>>(), 0.0};
  } else if (allocate) {
    const auto begin = std::chrono::steady_clock::now();
    allocation.emplace();
    Sensitivities measured = device->measure_sensitivities(*model, plan, calibrated.windows, options.compute,
                                                           options.progress, ranks);
    allocation->sensitivities = std::move(measured.values);
    options.readers = std::move(measured.readers);
    allocate_by_sensitivity(allocation->sensitivities, plan);
    allocation->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  if (!of_first) {
    PeerOutput output(packs);
    device->prune(*model, plan, calibrated.windows, options, output);
    return;
  }
  CheckpointWriter& writer = *of_first;
  const auto sync = [&writer] { writer.sync(); };
  std::optional<Journal> journal;
  if (unfinished) {
    journal.emplace(writer.temporary_folder(), sync);
  } else {
    nlohmann::ordered_json head = {{"identity", identity}, {"plan", to_json(plan)}};
    if (allocation) head["sensitivities"] = allocation->sensitivities;
    journal.emplace(writer.temporary_folder(), head, sync);
  }
  std::unique_ptr<CheckpointWriter> packed;
  PackReport packing;
  const PruneResult result = keeping_blocks(*journal, writer, flags.resume, [&] {
    if (packs) {
      GridOutput output(model->checkpoint(), plan, writer, *journal, options.finished);
      PruneResult pruned = device->prune(*model, plan, calibrated.windows, options, output);
      packed = output.write_packed(flags.out, tables, packing);
      return pruned;
    }
    CheckpointOutput output(model->checkpoint(), writer, &*journal, options.finished);
    PruneResult pruned = device->prune(*model, plan, calibrated.windows, options, output);
    output.copy_rest();
    return pruned;
  });
  CheckpointWriter& whole = packs ? *packed : writer;
  const std::string own_files[] = {"swiftprune.json", "plan.json"};
  whole.copy_other_files(model->checkpoint(), own_files);
  nlohmann::ordered_json record = make_record(*model, plan, flags.method, options, calibration, allocation,
                                              result, command_record(*flags.common.command),
                                              hashes.valid() ? hashes.get() : nlohmann::ordered_json());
  if (ranks.size() > 1) record["machine"]["ranks"] = ranks.size();
  if (auto previous = previous_record(model->checkpoint()); !previous.is_null())
    record["previous"] = std::move(previous);
  if (packs) {
    record["packed"] = {{"dense_bytes", packing.dense_bytes},
                        {"packed_bytes", packing.packed_bytes},
                        {"source_bytes", packing.source_bytes},
                        {"target_bytes", packing.target_bytes}};
    whole.write_file(kPackedRecordFile, packed_record(packing, tables).dump(2) + "\n");
  } else {
    std::filesystem::remove(writer.temporary_folder() /
                            Journal::kFileName);  // from here on nothing is stopped
  }
  whole.write_file("swiftprune.json", record.dump(1) + "\n");
  whole.write_file("plan.json", to_json(plan).dump(1) + "\n");
  whole.finish();
  if (packs) writer.drop_when_unfinished();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, model->config(), plan, result, calibration, allocation, packing, seconds);
  }
  note_sparser(flags, *model, plan, result.sparsity);
  run_prune_gate(flags.gate,
                 {.dense = flags.model,
                  .pruned = flags.out,
                  .field = flags.calibration.field,
                  .seqlen = flags.calibration.seqlen,
                  .forward = {.compute = options.compute, .progress = options.progress},
                  .common = flags.common},
                 *device);
}

// What an interrupted run leaves to a later --resume; empty: nothing.
std::string kept_of(const PruneFlags& flags) {
  const std::filesystem::path folder = partial_folder(flags.out);
  std::error_code error;
  const auto unfinished = std::filesystem::exists(folder, error) ? read_journal(folder) : std::nullopt;
  return unfinished && !unfinished->blocks.empty() ? blocks_kept(unfinished->blocks.size()) : std::string();
}

void run_pruning(PruneFlags& flags) {
  run_in_ranks(flags.common, flags.ranks, [&](Communicator& ranks) {
    run_writing(
        flags.out, [&] { run(flags, ranks); }, [&] { return kept_of(flags); });
  });
}

void add_grid_flags(CLI::App& command, PruneFlags& f) {
  command
      .add_option("--quantize", f.quantize,
                  "Find weights on a grid of few bits, together with the zeros; with --method best, admm or "
                  "sparsegpt, or --refine rtn or gptq behind another")
      ->check(CLI::IsMember({"int8", "int4", "int3"}));
  command
      .add_option("--group", f.group,
                  "With --quantize: inputs that share a scale: 32, 64 (default), 128 or row")
      ->check(CLI::IsMember({"32", "64", "128", "row"}));
  command
      .add_option(
          "--store", f.store,
          "With --quantize: packed (default; the linears as codes and scales, as they were solved) or "
          "dense (values in the checkpoint's dtype, for programs that read no packed models)")
      ->check(CLI::IsMember({"packed", "dense"}));
  command
      .add_option(
          "--quantize-embeddings", f.embeddings,
          "With --quantize: embedding and output projection rounded to the nearest, too, as swiftprune pack "
          "does")
      ->check(CLI::IsMember({"int8", "int4"}));
  command.add_flag("--asymmetric", f.asymmetric, "With --quantize: a zero point for each group, too");
}

// What `prune` and `quantize` share.
void add_common_flags(CLI::App& command, PruneFlags& f) {
  add_model_argument(command, f.common, "MODEL", f.model, "Hugging Face model folder, or a GGUF file")
      ->required();
  command.add_option("-o,--out", f.out, "Folder to write; must not exist or be empty")->required();
  command.add_option("--method", f.method, "Preset; swiftprune methods lists them")->capture_default_str();
  add_grid_flags(command, f);
  add_calibration_flags(command, f.calibration);
  command.add_option(
      "--windows", f.windows,
      "Calibration windows: a number, or auto: until more text hardly changes the statistics; default: "
      "the method's (swiftprune methods), fewer where the text is shorter");
  command.add_option("--refine", f.refine,
                     "Refinement, instead of the method's: none, \"pcg(20)\", \"admm(20)+pcg(20)\"");
  command
      .add_option("--propagate", f.propagate, "What the next block sees while calibrating: pruned or dense")
      ->check(CLI::IsMember({"pruned", "dense"}));
  command
      .add_option(
          "--min-expert-tokens", f.min_expert_tokens,
          "In models with experts: one that the calibration text sends fewer tokens to is pruned by all "
          "tokens of its layer")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  command.add_option("--skip", f.skip,
                     "Leave tensors as they are: a shell pattern such as '*.down_proj.weight'; repeatable");
  command
      .add_option(
          "--override", f.overrides,
          "Other settings for some tensors: a shell pattern and settings, such as '*.down_proj.weight' "
          "sparsity=0.4,refine=none or quantize=int8(64); repeatable")
      ->type_size(2);
  command.add_flag(
      "--resume", f.resume,
      "Go on behind the last finished block of a killed run; this run keeps its own when interrupted");
  command.add_flag("--dry-run", f.dry_run,
                   "Write nothing: what would be done to which tensors, and the time, memory and disk it "
                   "takes, measured on two blocks");
  command.add_option("--plan", f.plan_file,
                     "A plan for single tensors; every run writes its own as plan.json");
  add_prune_gate_flags(command, f.gate);
  add_compute_flag(command, f.compute);
  add_device_flags(command, f.device);
  add_rank_flags(command, f.common, f.ranks);
  add_common_options(command, f.common);
}

void add_prune_flags(CLI::App& command, PruneFlags& f) {
  add_common_flags(command, f);
  command.add_option("--sparsity", f.sparsity, "Share of the weights to prune, 0 <= s < 1")
      ->capture_default_str()
      ->each([&f](const std::string&) { f.sparsity_given = true; });
  command
      .add_option("--pattern", f.pattern,
                  "row (unstructured), layer, N:M such as 2:4 (keeps 2 of every 4), block:RxC")
      ->capture_default_str();
  command
      .add_option(
          "--permute", f.permute,
          "With N:M patterns: which inputs change places so that less is lost, at no cost later: none "
          "(default), "
          "mlp (down's, with the rows of gate and up) or all (attention output's within each head as well)")
      ->check(CLI::IsMember({"none", "mlp", "all"}));
  command.add_option("--score", f.score, "Score, instead of the method's");
  command.add_option("--select", f.select, "Selection, instead of the method's");
  command
      .add_option("--allocate", f.allocate,
                  "How the sparsity is spread: none (the same everywhere) or sensitivity (linears and rows "
                  "whose pruning "
                  "changes the output little lose more); default: sensitivity with --method best and "
                  "unstructured patterns")
      ->check(CLI::IsMember({"none", "sensitivity"}));
  command.add_option("--lambda", f.lambda, "With --select ewma: keep scores above mean + lambda * deviation");
  command.add_option("--alpha", f.alpha, "With --select ewma: EWMA weight of the mean")
      ->capture_default_str();
  command.add_option("--beta", f.beta, "With --select ewma: EWMA weight of the deviation")
      ->capture_default_str();
}

void print_methods(const CommonOptions& common) {
  if (common.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Method& m : methods()) {
      list.push_back({{"name", m.name},
                      {"score", format(m.score)},
                      {"n_m_score", format(m.n_m_score)},
                      {"select", name_of(m.select)},
                      {"refine", format(m.refine)},
                      {"windows", m.windows},
                      {"gpu_windows", m.gpu_windows},
                      {"propagate", name_of(m.propagation)},
                      {"summary", m.summary},
                      {"source", m.source}});
    }
    print_json({{"methods", list}});
    return;
  }
  fmt::print("Methods (--method): score x selection x refinement, windows of calibration text\n");
  for (const Method& m : methods()) {
    const std::string on_gpu =
        m.gpu_windows != m.windows ? fmt::format(" ({} on a GPU)", m.gpu_windows) : std::string();
    fmt::print("  {:<13} {} x {} x {}, {} windows{}, propagates {}\n  {:<13} {}{}\n", m.name, format(m.score),
               name_of(m.select), format(m.refine), m.windows, on_gpu, name_of(m.propagation), "", m.summary,
               m.source.empty() ? "" : fmt::format(" ({})", m.source));
  }
  const auto list = [](std::string_view title, const auto& infos) {
    fmt::print("\n{}\n", title);
    for (const auto& info : infos) fmt::print("  {:<13} {} ({})\n", info.name, info.summary, info.source);
  };
  fmt::print("\nScores (--score)\n");
  for (const ScoreKind* kind : score_kinds())
    fmt::print("  {:<13} {} ({})\n", kind->name, kind->summary, kind->source);
  list("Selections (--select)", selectors());
  list("Refinements (--refine)", refiners());
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
  grid->sparsity = 0.0;
  grid->allocate = "none";
  grid->quantize = "int4";
  CLI::App* quantize =
      program.add_subcommand("quantize", "Put weights on a grid of few bits: prune --quantize without zeros");
  add_common_flags(*quantize, *grid);
  quantize->footer(
      "Examples:\n"
      "  swiftprune quantize ./SmolLM2-135M --out ./SmolLM2-int4 --quantize int4 --calibration my_text.txt\n"
      "  swiftprune quantize ./SmolLM2-135M --out ./SmolLM2-rtn --quantize int4 --group 32 --method rtn");
  quantize->callback([grid] { run_pruning(*grid); });

  auto common = std::make_shared<CommonOptions>();
  CLI::App* list = program.add_subcommand(
      "methods", "List methods, scores, selections and refinements with their sources");
  add_common_options(*list, *common);
  list->footer("Example: swiftprune methods");
  list->callback([common] {
    const RunScope job = apply(*common);
    print_methods(*common);
  });
}

}  // namespace swiftprune::cli
