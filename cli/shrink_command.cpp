// swiftprune shrink: a checkpoint folder in, a smaller dense checkpoint folder of the same family out.
#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "calibration_text.h"
#include "command.h"
#include "model_text.h"
#include "shrink_dry_run.h"
#include "shrink_flags.h"
#include "shrink_record.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/choices/shape_choice.h"
#include "swiftprune/pipeline/choices/width_choice.h"
#include "swiftprune/pipeline/decode_time.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune::cli {

std::int64_t num_parameters(const Checkpoint& checkpoint) {
  std::int64_t sum = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) sum += tensor.numel();
  return sum;
}

namespace {

using Json = nlohmann::ordered_json;

double wanted_ratio(const ShrinkFlags& flags, const Model& model, Device& device, ComputeType compute,
                    Json& measured) {
  const int given =
      int{flags.ratio.has_value()} + int{flags.target_params.has_value()} + int{flags.target_ms.has_value()};
  if (given != 1) {
    bad_usage("--ratio, --target-params, --target-ms: found {} of them, expected one", given);
  }
  if (flags.ratio) return *flags.ratio;
  if (flags.target_params) {
    return ratio_for_parameters(model.config(), num_parameters(model.checkpoint()), *flags.target_params);
  }
  const DecodeTime dense = device.decode_time(model, compute);
  measured["decode_ms"] = {{"dense", dense.total_ms}, {"head", dense.head_ms}, {"target", *flags.target_ms}};
  return ratio_for(dense, *flags.target_ms);
}

Json shape_json(const ModelConfig& model, const ShrinkShape& shape) {
  Json json = {{"intermediate_size", shape.channels},
               {"num_attention_heads", model.num_heads / model.num_kv_heads * shape.groups},
               {"num_key_value_heads", shape.groups},
               {"num_hidden_layers", shape.layers}};
  if (!shape.layer_channels.empty()) json["layer_intermediate_size"] = shape.layer_channels;
  if (!shape.layer_groups.empty()) json["layer_num_key_value_heads"] = shape.layer_groups;
  return json;
}

Json biases_json(const ModelConfig& model, const ShrinkShape& shape, Compensation compensation) {
  Json names = Json::array();
  for (const LinearInput output : added_biases(model, shape, compensation)) names.push_back(name_of(output));
  return names;
}

// What the record says of this shrink alone.
Json own_record(const ModelConfig& m, const ShapeChoice& choice, const ShrinkResult& result,
                Compensation compensation) {
  Json blocks = Json::array();
  for (const ShrunkBlock& block : result.blocks) {
    Json item = {{"layer", block.layer}};
    if (std::ssize(block.kept.channels) < m.intermediate_size) item["channels"] = block.kept.channels;
    if (std::ssize(block.kept.groups) < m.num_kv_heads) item["groups"] = block.kept.groups;
    blocks.push_back(std::move(item));
  }
  return {{"added_biases", biases_json(m, choice.shape, compensation)},
          {"dense", shape_json(m, shape_of(m))},
          {"shape", shape_json(m, choice.shape)},
          {"removed_layers", choice.removed_layers},
          {"ratio", ratio_of(m, choice.shape)},
          {"measured", choice.measured},
          {"kept", std::move(blocks)}};
}

void print_summary(const ShrinkFlags& flags, const Json& record, double seconds) {
  const Json& shape = record.at("shape");
  fmt::print("shrunk      {}\n", flags.out);
  fmt::print(
      "size        {:.2f} % of the blocks' parameters removed: {} layers, {} heads ({} key heads), MLP {}\n",
      100.0 * record.at("ratio").get<double>(), shape.at("num_hidden_layers").get<std::int64_t>(),
      shape.at("num_attention_heads").get<std::int64_t>(),
      shape.at("num_key_value_heads").get<std::int64_t>(), shape.at("intermediate_size").get<std::int64_t>());
  print_parameters(record);
  for (const auto& [key, what] : {std::pair{"layer_intermediate_size", "widths      "},
                                  std::pair{"layer_num_key_value_heads", "key heads   "}}) {
    if (shape.contains(key)) fmt::print("{}{}\n", what, shape.at(key).dump());
  }
  if (const Json& layers = record.at("removed_layers"); !layers.empty())
    fmt::print("layers gone {}\n", layers.dump());
  print_shrink_time(record, seconds);
  std::vector<std::vector<std::string>> next = {{"swiftprune", "eval", flags.out, "--text", "FILE"}};
  if (!flags.non_uniform) next.push_back({"swiftprune", "export", flags.out, "--gguf", "FILE.gguf"});
  print_next(flags.common, next);
}

void check_shapes(const ShrinkFlags& flags, const ModelConfig& model, const ShapeRequest& request,
                  Compensation compensation) {
  if (flags.non_uniform) {
    check_width_request(model, request);
    ShrinkShape shape = shape_of(model);
    for (const UnitKind kind : request.units) {
      (kind == UnitKind::kMlp ? shape.layer_channels : shape.layer_groups).resize(model.blocks.size(), 1);
    }
    added_biases(model, shape, compensation);
    return;
  }
  for (const ShrinkShape& shape : shapes_for(model, request)) added_biases(model, shape, compensation);
}

ShapeChoice choose_widths(const ShrinkFlags& flags, const ModelConfig& model, const ShapeRequest& request,
                          TrialStreams& trials, const ProgressFn& progress) {
  ShapeChoice choice;
  choice.measured = Json::object();
  if (flags.widths_by == "score") {
    choice.shape = standardized_widths(model, request, trials, {flags.score, progress});
    return choice;
  }
  const WidthChanges changes = measure_width_changes(model, request, trials, {flags.score, progress});
  choice.shape = spread_widths(model, request, changes);
  const auto record = [&](const char* name, const UnitChanges& of) {
    if (!of.changes.empty()) choice.measured[name] = {{"share", of.share}, {"changes", of.changes}};
  };
  record("channels", changes.channels);
  record("groups", changes.groups);
  return choice;
}

void run(ShrinkFlags& flags) {
  if (flags.units == "experts") return shrink_experts(flags);
  flags.refuse({"--experts", "--no-keep-super", "--rounds", "--resume"}, "--units " + flags.units);
  const RunScope job = apply(flags.common);
  const auto start = std::chrono::steady_clock::now();
  const auto device = open_device(flags.device);
  const auto model = open_model(flags.common, flags.model);
  device->check_model(*model);
  if (flags.units == "mlp" && experts_of(model->config()) != nullptr)
    return shrink_expert_widths(flags, job, *device, *model);
  flags.calibration.fit_to(*model);
  check_shrinkable(*model);
  check_outside("--out", flags.out, flags.model);
  check_new_folder(flags.out);
  ShrinkOptions options;
  if (flags.score == "auto") flags.score = options.score;
  options.score = unit_scorer(flags.score).name;
  options.compensation =
      flags.compensate == "auto" ? Compensation::kRefit : parse_compensation(flags.compensate);
  options.refit = {flags.damping, flags.alpha, flags.beta};
  options.compute = compute_by_name(flags.compute, *device);
  options.progress = job.context().progress;

  Json decode = Json::object();
  ShapeRequest request;
  request.units = parse_units(flags.units);
  request.align = flags.align;
  request.ratio = wanted_ratio(flags, *model, *device, options.compute, decode);
  // A wrong request costs nothing.
  check_shapes(flags, model->config(), request, options.compensation);
  if (flags.dry_run) return dry_run_shrink(flags, *model, *device, request, options);
  std::future<Json> hashes =
      std::async(device->leaves_processor_free() ? std::launch::async : std::launch::deferred,
                 [&model, context = current_run()] {
                   const RunScope scope(context);
                   return model_hashes(model->checkpoint());
                 });
  const TokenWindows windows = calibration_windows(notes_to(flags.common), *model, *device, flags.calibration,
                                                   flags.windows, false, options.compute, options.progress);
  // Scores are compared on all of the text, losses and changes on a little of it.
  const bool whole_text = flags.non_uniform && flags.widths_by == "score";
  ShapeChoice choice;
  {  // the trials' memory is free again afterwards
    const auto trials =
        device->trial_streams(*model, whole_text ? windows : trial_text(windows), options.compute);
    choice = flags.non_uniform ? choose_widths(flags, model->config(), request, *trials, options.progress)
                               : choose_shape(model->config(), request, *trials,
                                              {options.score, flags.layers_by == "greedy", options.progress});
  }
  choice.measured.update(decode);
  // Only what runs beside the dense model can make up for layers that are gone.
  if (flags.compensate == "auto" && !choice.removed_layers.empty()) {
    options.compensation = Compensation::kAligned;
  }

  const std::vector<LinearInput> biases = added_biases(model->config(), choice.shape, options.compensation);
  ShrunkCheckpoint output(*model, choice.shape, choice.removed_layers, flags.out, biases);
  const ShrinkResult result =
      device->shrink(*model, choice.shape, choice.removed_layers, windows, options, output);
  const Json record =
      shrink_record({.flags = flags,
                     .model = *model,
                     .device = *device,
                     .windows = windows,
                     .method = "shrink",
                     .compensation = name_of(options.compensation),
                     .parameters = output.num_parameters(),
                     .seconds = result.seconds},
                    own_record(model->config(), choice, result, options.compensation), hashes.get());
  output.finish(record);
  if (flags.target_ms) {
    const DecodeTime now = device->decode_time(*Model::open(flags.out), options.compute);
    print_note(flags.common, fmt::format("decode {:.2f} ms a token, asked {:.2f}, dense {:.2f}", now.total_ms,
                                         *flags.target_ms, decode.at("decode_ms").at("dense").get<double>()));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, record, seconds);
  }
}

void add_flags(CLI::App& command, ShrinkFlags& f) {
  add_model_argument(command, f.common, "MODEL", f.model, "Hugging Face model folder, or a GGUF file")
      ->required();
  command.add_option("-o,--out", f.out, "Folder to write; must not exist or be empty")->required();
  command.add_option("--ratio", f.ratio, "Share of the blocks' parameters to remove, 0 < r < 1");
  command.add_option("--target-params", f.target_params, "Parameters of the whole shrunk model");
  command.add_option("--target-ms", f.target_ms,
                     "Milliseconds a decoded token here; the dense model is measured first");
  command
      .add_option("--units", f.units,
                  "What to remove: mlp (channels), heads (whole key-head groups), layers, or several of them "
                  "with commas, mixed by measured loss; or experts (alone)")
      ->capture_default_str();
  command
      .add_option("--experts", f.experts,
                  "With --units experts, instead of --ratio: how many of each layer stay")
      ->check(CLI::Range(1, 1 << 16));
  command.add_flag("--no-keep-super", f.no_keep_super,
                   "With --units experts: experts whose outputs make massive activations may go, too");
  command
      .add_option("--rounds", f.rounds,
                  "With --units experts and the score ours: removed in so many steps, each measured anew")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 10));
  command.add_option("--align", f.align, "The MLP's width becomes a multiple of this")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  CLI::Option* non_uniform = command.add_flag(
      "--non-uniform", f.non_uniform,
      "Layers may keep different numbers of channels and head groups, or of experts; only swiftprune loads "
      "the result, and llama.cpp what export --gguf makes of a llama or mistral");
  command
      .add_option(
          "--widths-by", f.widths_by,
          "With --non-uniform, by what layers lose units: change (of the model's output, measured) or "
          "score (standardised in each layer, as FLAP does)")
      ->capture_default_str()
      ->needs(non_uniform)
      ->check(CLI::IsMember({"change", "score"}));
  command
      .add_option(
          "--score", f.score,
          "Score of channels and head groups: contribution (auto), wanda-sp, flap, obs, magnitude; of "
          "experts: ours (auto), reap, frequency, router-weight, ean, random")
      ->capture_default_str();
  command
      .add_option("--layers-by", f.layers_by,
                  "Choice of layers: greedy (measured loss) or influence (of the block)")
      ->capture_default_str()
      ->check(CLI::IsMember({"greedy", "influence"}));
  command
      .add_option("--compensate", f.compensate,
                  "What is left: none (as it is), bias (means of what went, in biases that "
                  "config.json of the family allows), refit "
                  "(output projections by least squares), aligned (all linears, towards the dense model; two "
                  "forwards), auto (aligned when layers go, else refit)")
      ->capture_default_str();
  command.add_option("--damping", f.damping, "Of the least squares: higher stays nearer to the old weights")
      ->capture_default_str()
      ->check(more_than_zero());
  command.add_option("--alpha", f.alpha, "With aligned: share of the inputs' error to make up for")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--beta", f.beta, "With aligned: share of the residual's error to make up for")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  add_calibration_flags(command, f.calibration);
  command.add_option("--windows", f.windows, "Calibration windows")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command.add_flag("--resume", f.resume,
                   "With --units experts: go on behind the last finished layer of a killed run; this run "
                   "keeps its own when "
                   "interrupted");
  command.add_flag(
      "--dry-run", f.dry_run,
      "Tell the sizes, and the time, memory and disk it takes, measured on the first blocks; write nothing");
  add_compute_flag(command, f.compute);
  add_device_flags(command, f.device);
  add_common_options(command, f.common);
}

}  // namespace

void declare_shrink(CLI::App& program) {
  auto flags = std::make_shared<ShrinkFlags>();
  CLI::App* command = program.add_subcommand(
      "shrink", "Take channels, heads or layers out and write a smaller dense checkpoint");
  flags->command = command;
  add_flags(*command, *flags);
  command->footer(
      "Examples:\n"
      "  swiftprune shrink ./SmolLM2-135M --out ./SmolLM2-20 --ratio 0.2 --calibration my_text.txt\n"
      "  swiftprune shrink ./SmolLM2-135M --out ./SmolLM2-100M --target-params 100000000 --units mlp,layers\n"
      "  swiftprune shrink ./Qwen3-30B-A3B --out ./Qwen3-96 --units experts --experts 96 --calibration "
      "chat.jsonl code.jsonl");
  command->callback([flags] {
    run_writing(
        flags->out, [&] { run(*flags); }, [&] { return flags->kept; });
  });
}

}  // namespace swiftprune::cli
