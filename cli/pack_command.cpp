#include <map>
#include <memory>

#include "command.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune::cli {
namespace {

struct PackFlags {
  CommonOptions common;
  std::string model, out, quantize = "none", embeddings = "none";
};

std::string format_name(const PackFormat& format) {
  if (format.kind != PackedKind::kNm16) return std::string(name_of(format.kind));
  return fmt::format("{}:{}", format.group_n, format.group_m);
}

void print_report(const PackReport& report, const PackFlags& options) {
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(whole);
  };
  if (options.common.json) {
    auto linears = nlohmann::ordered_json::array();
    for (const PackedLinear& l : report.linears) {
      linears.push_back({{"name", l.name},
                         {"format", format_name(l.format)},
                         {"density", l.density},
                         {"dense_bytes", l.dense_bytes},
                         {"packed_bytes", l.packed_bytes}});
    }
    print_json({{"out", options.out},
                {"quantize", options.quantize},
                {"quantize_embeddings", options.embeddings},
                {"linears", linears},
                {"left_dense", report.left},
                {"dense_bytes", report.dense_bytes},
                {"packed_bytes", report.packed_bytes},
                {"ratio", share(report.packed_bytes, report.dense_bytes)},
                {"model_bytes_before", report.source_bytes},
                {"model_bytes_after", report.target_bytes}});
    return;
  }
  std::map<std::string, int> kinds;
  double density = 0.0;
  for (const PackedLinear& l : report.linears) {
    ++kinds[format_name(l.format)];
    density += l.density * share(l.dense_bytes, report.dense_bytes);
  }
  for (const auto& [kind, count] : kinds) fmt::print("{:>5} linears as {}\n", count, kind);
  for (const PackedLinear& table : report.tables) {
    fmt::print("{} as {}: {} -> {}\n", table.name, options.embeddings,
               human_bytes(static_cast<double>(table.dense_bytes)),
               human_bytes(static_cast<double>(table.packed_bytes)));
  }
  if (!report.left.empty()) fmt::print("{:>5} linears of F32 left as they are\n", report.left.size());
  if (!report.linears.empty()) {
    fmt::print("linears: {} -> {} ({:.1f} %; {:.1f} % of the weights are not zero)\n",
               human_bytes(static_cast<double>(report.dense_bytes)),
               human_bytes(static_cast<double>(report.packed_bytes)),
               100.0 * share(report.packed_bytes, report.dense_bytes), 100.0 * density);
  }
  fmt::print("model:   {} -> {} ({:.1f} %)\n", human_bytes(static_cast<double>(report.source_bytes)),
             human_bytes(static_cast<double>(report.target_bytes)),
             100.0 * share(report.target_bytes, report.source_bytes));
  if (report.target_bytes >= report.source_bytes) {
    print_note(options.common, "nothing became smaller; prune the model first");
    print_next(options.common, {{"swiftprune", "prune", options.model, "--out", "PRUNED"}});
  }
}

void run(const PackFlags& options) {
  const RunScope job = apply(options.common);
  check_outside("--out", options.out, options.model);
  const Checkpoint source = Checkpoint::open(options.model);
  if (has_packed_tensors(source))
    bad_input("{}: the model is packed already", as_given(options.common, options.model));
  std::vector<std::string> weights;
  const ModelConfig config = model_config(source.config());
  for (const BlockWeight& weight : block_weights(config)) weights.push_back(weight.name());
  const StoredWeights stored(source);
  PackOptions pack;
  pack.parts = &stored;
  for (const Quantize quantize : {Quantize::kInt8, Quantize::kFp8}) {
    if (options.quantize == name_of(quantize)) pack.quantize = quantize;
  }
  if (options.embeddings != "none") pack.table_bits = options.embeddings == "int8" ? 8 : 4;
  pack.tables = tables_of(config);
  pack.progress = job.context().progress;
  print_report(pack_checkpoint(source, weights, options.out, pack), options);
}

}  // namespace

void declare_pack(CLI::App& program) {
  auto options = std::make_shared<PackFlags>();
  CLI::App* command =
      program.add_subcommand("pack", "Store a pruned model without its zeros: smaller, and faster to run");
  add_model_argument(*command, options->common, "MODEL", options->model, kModelHelp)->required();
  command->add_option("-o,--out", options->out, "New folder for the packed model")->required();
  command
      ->add_option("--quantize", options->quantize,
                   "none: lossless; int8, fp8 (E4M3): 8 bits a weight, a scale a row")
      ->transform(one_of({"none", "int8", "fp8"}))
      ->capture_default_str();
  command
      ->add_option(
          "--quantize-embeddings", options->embeddings,
          "Embedding and output projection, rounded to the nearest: none; int8: a scale a row; int4: a "
          "scale and a zero point for 32 inputs")
      ->transform(one_of({"none", "int8", "int4"}))
      ->capture_default_str();
  add_common_options(*command, options->common);
  command->footer("Example: swiftprune pack pruned --out pruned-packed\nBack again: swiftprune unpack");
  command->callback([options] { run_writing(options->out, [&] { run(*options); }); });
}

}  // namespace swiftprune::cli
