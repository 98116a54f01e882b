#include "swiftprune/recovery/recovery.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/core/child_process.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/recovery/trainer_script.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

std::vector<std::string> trainer_command(const RecoverySpec& spec, const std::filesystem::path& work) {
  std::vector<std::string> command = {spec.python};
  if (spec.gpus > 1) {
    for (const char* argument : {"-m", "torch.distributed.run", "--standalone"})
      command.emplace_back(argument);
    command.push_back(fmt::format("--nproc-per-node={}", spec.gpus));
  }
  command.push_back(work / "trainer.py");
  command.push_back(work / "job.json");
  return command;
}

struct TrainerAnswer {
  std::optional<nlohmann::json> result;
  std::string error;
  bool input = false;  // the error is of what was given
};

void hear(std::string_view line, const ProgressFn& progress, TrainerAnswer& answer) {
  if (line.empty() || line.front() != '{') return;  // what libraries print
  const nlohmann::json said = parse_json(line, "the trainer", {.max_bytes = 1 << 20});
  const JsonField field(said, "the trainer");
  if (const auto stage = field.find("stage")) {
    constexpr std::int64_t kMany = std::int64_t{1} << 40;
    progress(stage->string(), field.at("done").integer(0, kMany), field.at("total").integer(0, kMany));
  } else if (const auto error = field.find("error")) {
    answer.error = error->string();
    answer.input = field.at("input").boolean();
  } else if (field.find("result")) {
    answer.result = said.at("result");
  }
}

nlohmann::json train(const RecoverySpec& spec, const std::filesystem::path& work,
                     const ProgressFn& progress) {
  TrainerAnswer answer;
  const std::filesystem::path log = work / "trainer.log";
  const int code = run_child(trainer_command(spec, work), log,
                             [&](std::string_view line) { hear(line, progress, answer); });
  if (!answer.error.empty()) {
    throw Error(answer.input ? ErrorKind::kBadInput : ErrorKind::kFailure, answer.error);
  }
  if (code != 0 || !answer.result) {
    std::string end = end_of_file(log, 600);
    std::replace(end.begin(), end.end(), '\n', ' ');
    fail(ErrorKind::kFailure, "{}: the training ended with code {} and no result: {}", spec.python, code,
         end);
  }
  return *answer.result;
}

RecoveryResult read_result(const nlohmann::json& json) {
  const JsonField field(json, "the trainer", "result");
  RecoveryResult result;
  result.kl_before = field.at("kl_before").number();
  result.kl_after = field.at("kl").number();
  for (const JsonField& epoch : field.at("kl_after").items()) result.kl_of_epochs.push_back(epoch.number());
  result.steps = field.at("steps").integer(0, std::int64_t{1} << 40);
  result.train_seconds = field.at("train_seconds").number();
  result.peak_gpu_bytes = field.at("peak_gpu_bytes").integer(0, std::int64_t{1} << 50);
  result.torch = field.at("torch").string();
  result.transformers = field.at("transformers").string();
  return result;
}

// The trained values in the pruned checkpoint's dtype. Every weight of a matrix that was zero must still be.
void write_trained(const Checkpoint& pruned, const TensorInfo& tensor, const Checkpoint& trained,
                   const TensorInfo& source, CheckpointWriter& writer, RecoveryResult& result) {
  std::vector<float> before(static_cast<std::size_t>(tensor.numel())), after(before.size());
  convert_to_f32(pruned.bytes(tensor), tensor.dtype, before);
  convert_to_f32(trained.bytes(source), source.dtype, after);
  const bool matrix = tensor.shape.size() > 1;
  for (std::size_t i = 0; i < after.size(); ++i) {
    if (!std::isfinite(after[i]))
      fail(ErrorKind::kFailure, "{}: found {} behind the training; use a smaller --learning-rate",
           tensor.name, after[i]);
    if (!matrix) continue;
    if (before[i] == 0.0F && after[i] != 0.0F)
      fail(ErrorKind::kFailure, "{}: weight {} was pruned and is {} behind the training", tensor.name, i,
           after[i]);
    result.trained_weights += before[i] != 0.0F ? 1 : 0;
  }
  writer.write(tensor.name, after);
  ++result.trained_tensors;
}

}  // namespace

void check_trainer(const RecoverySpec& spec, const std::filesystem::path& work) {
  write_whole(work / "trainer.py", kTrainerScript);
  write_whole(work / "job.json",
              nlohmann::ordered_json{{"only_check", true}, {"device", spec.device}}.dump());
  RecoverySpec one = spec;
  one.gpus = 1;
  static_cast<void>(train(one, work, [](std::string_view, std::int64_t, std::int64_t) {}));
}

RecoveryResult recover(const Checkpoint& pruned, const std::set<std::string>& tables,
                       const TokenWindows& windows, const RecoverySpec& spec,
                       const std::filesystem::path& work, const ProgressFn& progress,
                       CheckpointWriter& writer) {
  write_whole(work / "trainer.py", kTrainerScript);
  write_whole(work / "tokens",
              {reinterpret_cast<const char*>(windows.ids.data()), windows.ids.size() * sizeof(std::int32_t)});
  const std::filesystem::path out = work / "trained";
  const nlohmann::ordered_json job = {{"pruned", std::filesystem::absolute(pruned.folder()).string()},
                                      {"dense", std::filesystem::absolute(spec.dense).string()},
                                      {"tokens", (work / "tokens").string()},
                                      {"out", out.string()},
                                      {"seqlen", windows.seqlen},
                                      {"check_windows", spec.check_windows},
                                      {"epochs", spec.epochs},
                                      {"batch", spec.batch},
                                      {"learning_rate", spec.learning_rate},
                                      {"device", spec.device},
                                      {"threads", spec.threads},
                                      {"seed", spec.seed}};
  write_whole(work / "job.json", job.dump());
  RecoveryResult result = read_result(train(spec, work, progress));

  const Checkpoint trained = Checkpoint::open(out);
  for (const TensorInfo& tensor : trained.tensors()) {
    const TensorInfo* own = pruned.find(tensor.name);
    if (own == nullptr || own->shape != tensor.shape)
      fail(ErrorKind::kFailure,
           "{}: transformers stores this tensor otherwise than {} does, so it cannot be put back",
           tensor.name, pruned.folder().string());
  }
  std::int64_t done = 0;
  for (const TensorInfo& tensor : pruned.tensors()) {
    progress("write", done++, static_cast<std::int64_t>(pruned.tensors().size()));
    const TensorInfo* source = trained.find(tensor.name);
    if (source == nullptr || tables.contains(tensor.name)) {
      writer.write_bytes(tensor.name, pruned.bytes(tensor));
    } else {
      write_trained(pruned, tensor, trained, *source, writer, result);
    }
    pruned.release(tensor);
  }
  if (result.trained_tensors == 0)
    fail(ErrorKind::kFailure, "{}: the trainer gave no tensor of this model", pruned.folder().string());
  return result;
}

nlohmann::ordered_json recovery_record(const RecoveryResult& result) {
  return {{"kl_before", result.kl_before},
          {"kl_after", result.kl_after},
          {"kl_of_epochs", result.kl_of_epochs},
          {"steps", result.steps},
          {"train_seconds", result.train_seconds},
          {"peak_gpu_bytes", result.peak_gpu_bytes},
          {"trained_tensors", result.trained_tensors},
          {"trained_weights", result.trained_weights},
          {"torch", result.torch},
          {"transformers", result.transformers}};
}

}  // namespace swiftprune
