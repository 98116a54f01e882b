#include "swiftprune/pipeline/record.h"

#include <set>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/sha256.h"

namespace swiftprune {
namespace {

nlohmann::ordered_json tensor_record(const TensorResult& tensor) {
  nlohmann::ordered_json item = {{"name", tensor.name},
                                 {"rows", tensor.rows},
                                 {"cols", tensor.cols},
                                 {"pattern", tensor.pattern},
                                 {"asked_sparsity", tensor.asked_sparsity},
                                 {"sparsity", tensor.sparsity}};
  if (tensor.error) item["output_error"] = *tensor.error;
  if (tensor.damping) item["damping"] = *tensor.damping;
  if (tensor.lambda) item["lambda"] = *tensor.lambda;
  return item;
}

}  // namespace

nlohmann::ordered_json model_hashes(const Checkpoint& checkpoint) {
  std::set<std::string> files = {"config.json"};
  for (const TensorInfo& tensor : checkpoint.tensors()) files.insert(tensor.file);
  const std::vector<std::string> list(files.begin(), files.end());
  std::vector<std::string> digests(list.size());
  parallel_for(static_cast<std::int64_t>(list.size()), 1, [&](std::int64_t first, std::int64_t last) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      digests[i] = "sha256:" + sha256_file(checkpoint.folder() / list[i]);
    }
  });
  nlohmann::ordered_json hashes = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < list.size(); ++i) hashes[list[i]] = digests[i];
  return hashes;
}

nlohmann::ordered_json make_record(const Model& model, const Plan& plan, const std::string& method,
                                   const PruneOptions& options, const CalibrationRecord& calibration,
                                   const PruneResult& result, const nlohmann::ordered_json& command,
                                   const nlohmann::ordered_json& hashes) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const TensorResult& tensor : result.tensors) tensors.push_back(tensor_record(tensor));
  const StageSeconds& s = result.seconds;
  return {
      {"swiftprune", SWIFTPRUNE_VERSION},
      {"command", command},
      {"method", method},
      {"family", model.config().family},
      {"weights_changed", result.weights_changed},
      {"asked_sparsity", plan.sparsity()},
      {"sparsity", result.sparsity},
      {"select", options.select},
      {"propagate", name_of(options.propagation)},
      {"compute", options.compute == ComputeType::kBF16 ? "bf16" : "f32"},
      {"calibration",
       {{"source", calibration.source},
        {"ids", calibration.ids},
        {"windows", calibration.windows},
        {"seqlen", calibration.seqlen},
        {"seed", calibration.seed}}},
      {"input", hashes.is_null() ? model_hashes(model.checkpoint()) : hashes},
      {"machine", {{"cpu", cpu_model_name()}, {"instruction_set", isa_name()}, {"threads", num_threads()}}},
      {"seconds",
       {{"load", s.load},
        {"calibrate", s.calibrate},
        {"score", s.score},
        {"select", s.select},
        {"refine", s.refine},
        {"write", s.write},
        {"total", s.total}}},
      {"tensors", tensors}};
}

}  // namespace swiftprune
