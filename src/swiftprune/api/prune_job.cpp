#include "swiftprune/api/prune_job.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "swiftprune/api/job_options.h"
#include "swiftprune/api/option_values.h"
#include "swiftprune/api/prune_resume.h"
#include "swiftprune/api/resume.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/model_card.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/masking/zero_scan.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/adapter_output.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/grid_output.h"
#include "swiftprune/pipeline/journal.h"
#include "swiftprune/pipeline/shared_writing.h"
#include "swiftprune/ranks/same_on_ranks.h"

namespace swiftprune {
namespace {

using nlohmann::ordered_json;

// Of a rank that writes its share of the tensors beside the first one.
class ShareOutput final : public PruneOutput {
 public:
  ShareOutput(CheckpointOutput& output, PeerJournal& journal) : output_(output), journal_(journal) {}
  bool takes(const std::string& name) const override { return output_.takes(name); }
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> part) override {
    output_.write_part(name, first, part);
  }
  void finish(const FinishedBlock&) override { journal_.add(); }

 private:
  CheckpointOutput& output_;
  PeerJournal& journal_;
};

// By the names of the command's options.
ordered_json options_of(const PruneJob& job) {
  ordered_json overrides = ordered_json::array();
  for (const auto& [pattern, settings] : job.overrides) overrides.push_back({pattern, settings});
  ordered_json options = {{"method", job.method},
                          {"sparsity", job.sparsity},
                          {"pattern", job.pattern},
                          {"permute", job.permute},
                          {"low-rank", job.low_rank},
                          {"score", job.score},
                          {"select", job.select},
                          {"refine", job.refine},
                          {"propagate", job.propagate},
                          {"allocate", job.allocate},
                          {"quantize", job.quantize},
                          {"bits", or_null(job.bits)},
                          {"group", job.group},
                          {"asymmetric", job.asymmetric},
                          {"store", job.store},
                          {"quantize-embeddings", job.embeddings},
                          {"calibration", job.calibration.sources},
                          {"field", job.calibration.field},
                          {"seqlen", job.calibration.seqlen},
                          {"seed", job.calibration.seed},
                          {"windows", job.windows},
                          {"skip", job.skip},
                          {"override", overrides},
                          {"plan", job.plan_file},
                          {"lambda", or_null(job.lambda)},
                          {"alpha", job.alpha},
                          {"beta", job.beta},
                          {"min-expert-tokens", job.min_expert_tokens},
                          {"compute", job.where.compute},
                          {"device", job.where.device}};
  return options;
}

class Pruning {
 public:
  Pruning(const PruneJob& job, PreparedPrune prepared, const Model& model, Device& device,
          const JobOrigin& origin, const NoteFn& note, Communicator& ranks)
      : job_(job),
        prepared_(std::move(prepared)),
        model_(model),
        device_(device),
        origin_(origin),
        note_(note),
        ranks_(ranks) {
    prepared_.options.ranks = &ranks;
  }

  std::optional<PruneReport> run() {
    hash_aside();
    claim_output();
    calibrate_windows();
    // The plan as options and plan file make it, before it is allocated.
    const ordered_json identity =
        run_identity(origin_.options, model_, device_, prepared_.options.compute,
                     sha256_hex(to_json(prepared_.plan).dump()), report_.calibration.ids);
    std::optional<UnfinishedRun> unfinished = job_.resume && ranks_.is_first()
                                                  ? find_unfinished(job_.out, *writer_, identity, note_)
                                                  : std::nullopt;
    share_unfinished(ranks_, unfinished);
    settle_plan(unfinished);
    if (!ranks_.is_first()) {
      solve_beside();
      return std::nullopt;
    }
    solve_and_write(start_journal(identity, unfinished.has_value()));
    write_records();
    report_.plan = std::move(prepared_.plan);
    return std::move(report_);
  }

 private:
  void hash_aside() {
    if (!device_.leaves_processor_free()) return;
    hashes_ = std::async(std::launch::async, [&model = model_, context = current_run()] {
      const RunScope scope(context);
      return model_hashes(model.checkpoint());
    });
  }

  // Before the work, so that a wrong path costs nothing. Of a packed model only the pruned tensors stand there at
  // first. The first rank writes those alone; all write a dense one.
  void claim_output() {
    std::vector<PlannedTensor> layout =
        prepared_.packs ? stage_plan(model_.checkpoint(), prepared_.plan) : plan_like(model_.checkpoint());
    for (PlannedTensor& tensor : plan_adapter(model_.checkpoint(), prepared_.plan))
      layout.push_back(std::move(tensor));
    const auto leftover = job_.resume ? Leftover::kContinue : Leftover::kDiscard;
    if (ranks_.is_first()) {
      writer_.emplace(job_.out, layout, leftover);
      if (job_.resume) writer_->keep_when_unfinished();
    }
    if (prepared_.packs) return;
    writing_.emplace(ranks_, job_.out, writer_ ? writer_->temporary_folder() : "");
    if (const auto told = writing_->note(job_.out)) note_(*told);
    if (!writing_->is_shared()) return;
    if (!writer_) writer_.emplace(job_.out, layout, leftover, writing_->temporary());
    writer_->share(writing_->share());
  }

  void calibrate_windows() {
    const Stopwatch watch(text_seconds_);
    report_.calibration = {"none", "", 0, 0, job_.calibration.seed};
    if (needs_calibration(prepared_.plan) || prepared_.allocates) {
      Calibration calibrated = calibrate(job_, prepared_, model_, device_, note_);
      report_.calibration = job_.calibration.record(calibrated.windows);
      report_.calibration.stopping = calibrated.stopping;
      windows_ = std::move(calibrated.windows);
    }
    if (ranks_.size() > 1) check_same_on_ranks(ranks_, {{"calibration text", report_.calibration.ids}});
  }

  // The plan of the unfinished run, or as sensitivities spread it.
  void settle_plan(std::optional<UnfinishedRun>& unfinished) {
    PruneOptions& options = prepared_.options;
    std::optional<Allocation>& allocation = report_.allocation;
    if (unfinished) {
      options.finished = std::move(unfinished->blocks);
      apply_plan(unfinished->head.at("plan"), Journal::kFileName, prepared_.plan);
      if (unfinished->head.contains("sensitivities"))
        allocation = Allocation{unfinished->head.at("sensitivities").get<std::vector<double>>(), 0.0};
    } else if (prepared_.allocates) {
      allocation = allocate(prepared_, model_, device_, windows_, ranks_);
    }
  }

  std::unique_ptr<Journal> start_journal(const ordered_json& identity, bool goes_on) {
    const auto sync = [this] { writer_->sync(); };
    const auto& folder = writer_->temporary_folder();
    const auto on_disk = writing_ ? writing_->on_disk(folder) : std::function<std::int64_t()>();
    if (goes_on) return std::make_unique<Journal>(folder, sync, on_disk);
    ordered_json head = {{"identity", identity}, {"plan", to_json(prepared_.plan)}};
    if (report_.allocation) head["sensitivities"] = report_.allocation->sensitivities;
    return std::make_unique<Journal>(folder, head, sync, on_disk);
  }

  // Of another rank than the first.
  void solve_beside() {
    if (!writer_) {
      NoOutput output(prepared_.packs);
      solve(output);
      return;
    }
    PeerJournal journal(writer_->temporary_folder(), ranks_.rank(), [this] { writer_->sync(); });
    CheckpointOutput output(model_.checkpoint(), *writer_, nullptr, prepared_.options.finished);
    ShareOutput share(output, journal);
    solve(share);
    output.copy_rest();
    writing_->meet(*writer_);
  }

  PruneResult solve(PruneOutput& output) {
    return device_.prune(model_, prepared_.plan, windows_, prepared_.options, output);
  }

  void solve_and_write(const std::unique_ptr<Journal>& journal) {
    report_.result = keeping_blocks(*journal, *writer_, job_.resume, [&] {
      if (prepared_.packs) {
        GridOutput output(model_.checkpoint(), prepared_.plan, *writer_, *journal,
                          prepared_.options.finished);
        PruneResult pruned = solve(output);
        packed_ = output.write_packed(job_.out, prepared_.tables, report_.packing);
        return pruned;
      }
      CheckpointOutput output(model_.checkpoint(), *writer_, journal.get(), prepared_.options.finished);
      PruneResult pruned = solve(output);
      output.copy_rest();
      writing_->meet(*writer_);
      return pruned;
    });
  }

  void write_records() {
    CheckpointWriter& whole = prepared_.packs ? *packed_ : *writer_;
    std::vector<std::string> own_files = {"swiftprune.json", "plan.json", kModelCardFile};
    if (prepared_.packs) own_files.push_back("config.json");
    whole.copy_other_files(model_.checkpoint(), own_files);
    ordered_json& record = report_.record;
    record = make_record(model_, prepared_.plan, job_.method, prepared_.options, report_.calibration,
                         report_.allocation, report_.result, origin_.command,
                         hashes_.valid() ? hashes_.get() : ordered_json());
    record["machine"].update(device_.describe().machine);
    report_.seconds = tell_all_seconds(record["seconds"]);
    if (ranks_.size() > 1) record["machine"]["ranks"] = ranks_.size();
    if (auto previous = previous_record(model_.checkpoint()); !previous.is_null())
      record["previous"] = std::move(previous);
    if (prepared_.bits)
      record["bits"] = {{"asked", prepared_.bits->mean}, {"planned", packed_bits(prepared_.plan)}};
    if (prepared_.packs) {
      const PackReport& packing = report_.packing;
      if (prepared_.bits) record["bits"]["stored"] = stored_bits(report_);
      record["packed"] = {{"dense_bytes", packing.dense_bytes},
                          {"packed_bytes", packing.packed_bytes},
                          {"source_bytes", packing.source_bytes},
                          {"target_bytes", packing.target_bytes}};
      whole.write_file("config.json", packed_config(model_.checkpoint()));
      whole.write_file(kPackedRecordFile, packed_record(packing, prepared_.tables).dump(2) + "\n");
    } else {
      // From here on nothing is stopped.
      std::filesystem::remove(writer_->temporary_folder() / Journal::kFileName);
    }
    if (prepared_.plan.low_rank() > 0) {
      whole.write_file(fmt::format("{}/{}", kAdapterFolder, kAdapterConfigFile),
                       adapter_config(model_, prepared_.plan, job_.out));
    }
    write_model_card(model_.checkpoint(), record, prepared_.packs, whole);
    whole.write_file("swiftprune.json", record.dump(1) + "\n");
    whole.write_file("plan.json", to_json(prepared_.plan).dump(1) + "\n");
    whole.finish();
    if (prepared_.packs) writer_->drop_when_unfinished();
  }

  // The stages' and all between them: text that was written or chosen, hashes, tables, the disk.
  PruneReport::Seconds tell_all_seconds(ordered_json& stages) const {
    stages.erase("total");
    double known = text_seconds_;
    for (const auto& [stage, seconds] : stages.items()) known += seconds.get<double>();
    PruneReport::Seconds all;
    all.total = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    all.text = text_seconds_;
    all.other = std::max(0.0, all.total - known);
    stages["text"] = all.text;
    stages["other"] = all.other;
    stages["total"] = all.total;
    return all;
  }

  const PruneJob& job_;
  PreparedPrune prepared_;
  const Model& model_;
  Device& device_;
  const JobOrigin& origin_;
  const NoteFn& note_;
  Communicator& ranks_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double text_seconds_ = 0.0;
  std::future<ordered_json> hashes_;
  std::optional<CheckpointWriter> writer_;    // of the first rank, and of those that write beside it
  std::optional<SharedWriting> writing_;      // of a dense model
  std::unique_ptr<CheckpointWriter> packed_;  // where the output is a packed model
  TokenWindows windows_;
  PruneReport report_;
};

}  // namespace

std::optional<PruneReport> prune(const PruneJob& job, PreparedPrune prepared, const Model& model,
                                 Device& device, const JobOrigin& origin, const NoteFn& note,
                                 Communicator& ranks) {
  const std::int64_t group = default_group(model.config());
  if (job.group.empty() && prepared.plan.quantizes() && group != QuantGrid{}.group) {
    note(fmt::format("groups of {} inputs do not divide the width of every linear: a scale for {} (--group)",
                     QuantGrid{}.group,
                     group == 0 ? std::string("each whole row") : fmt::format("{} inputs each", group)));
  }
  return Pruning(job, std::move(prepared), model, device, origin, note, ranks).run();
}

double stored_bits(const PruneReport& report) {
  std::set<std::string_view> on_grids;
  for (const PackedLinear& linear : report.packing.linears) on_grids.insert(linear.name);
  double weights = 0.0;
  for (const TensorResult& tensor : report.result.tensors) {
    if (on_grids.contains(tensor.name))
      weights += static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols);
  }
  return weights > 0.0 ? 8.0 * static_cast<double>(report.packing.packed_bytes) / weights : 0.0;
}

std::optional<double> sparsity_before(const Model& model, const Plan& plan, double sparsity) {
  constexpr double kNoticeable = 0.01;
  if (sparsity <= plan.sparsity() + kNoticeable) return std::nullopt;
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
  if (weights == 0.0 || zeros / weights <= plan.sparsity() + kNoticeable) return std::nullopt;
  return zeros / weights;
}

std::string sparser_note(const std::string& model, double before, const Plan& plan) {
  return fmt::format(
      "{} had {:.2f} % zeros already, more than the {:.2f} % that were asked for; zeros are never filled "
      "again",
      model, 100.0 * before, 100.0 * plan.sparsity());
}

namespace {

void check_values(const PruneJob& job) {
  using namespace option_values;
  check_value("--seqlen", job.calibration.seqlen, kSeqlen);
  check_if_given("--propagate", job.propagate, kPropagate);
  check_if_given("--allocate", job.allocate, kAllocate);
  check_if_given("--store", job.store, kStore);
  check_if_given("--quantize-embeddings", job.embeddings, kTables);
  check_if_given("--group", job.group, kGroup);
  check_value("--min-expert-tokens", job.min_expert_tokens, option_values::kMinExpertTokens);
  check_value("--low-rank", job.low_rank, kLowRank);
  check_value("--bits", job.bits.value_or(1.0), kBits);
  for (const auto& [option, found] :
       {std::pair{"--lambda", job.lambda.value_or(0.0)}, std::pair{"--ewma-alpha", job.alpha},
        std::pair{"--ewma-beta", job.beta}}) {
    if (!std::isfinite(found)) bad_usage("{}: found {}, expected a number such as 0.5", option, found);
  }
}

}  // namespace

Outcome<PruneReport> PruneJob::run(const JobContext& context) const {
  return outcome_of([&] {
    const RunScope scope(context.run);
    check_values(*this);
    PruneJob job = *this;
    const LocatedModel located = locate_model(model);
    check_outside("--out", out, located.folder);
    const auto device = open_device(where.device, where.options);
    const auto opened = Model::open(located.folder);
    for (const std::string& note : opened->notes()) context.note(note);
    job.calibration.fit_to(*opened);
    device->check_model(*opened);
    PreparedPrune prepared = prepare(job, *opened, *device, compute_by_name(where.compute, *device));
    const JobOrigin origin = origin_of({zeros ? "prune" : "quantize", model, out}, options_of(*this),
                                       options_of(zeros ? PruneJob() : QuantizeJob()), options_of(job));
    PruneReport report = *prune(job, std::move(prepared), *opened, *device, origin, context.note);
    if (const auto before = sparsity_before(*opened, report.plan, report.result.sparsity))
      context.note(sparser_note(model, *before, report.plan));
    return report;
  });
}

}  // namespace swiftprune
