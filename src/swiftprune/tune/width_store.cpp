#include "swiftprune/tune/width_store.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/tune/level_store.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr std::array kOutputs = {LinearInput::kAttentionOutput, LinearInput::kMlpOutput};

PlannedTensor planned_as(const TensorInfo& tensor, std::vector<std::int64_t> shape) {
  return {tensor.name, tensor.dtype, std::move(shape), kSafetensorsFile, false, tensor.transposed};
}

// The output projections alone, at their new sizes.
class NarrowOutput final : public ShrinkOutput {
 public:
  NarrowOutput(const fs::path& folder, const std::vector<PlannedTensor>& tensors) : writer_(folder, tensors) {
    for (const PlannedTensor& tensor : tensors) names_.insert(tensor.name);
  }
  bool takes(const std::string& name) const override { return names_.contains(name); }
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override {
    if (takes(name)) writer_.write_bytes_part(name, first, bytes);
  }
  void write_bias(const std::string& name, std::span<const float> values) override {
    if (takes(name)) writer_.write(name, values);
  }
  void finish(const Model& model) {
    writer_.write_file("config.json", model.checkpoint().config().dump());
    writer_.finish();
  }

 private:
  std::set<std::string> names_;
  CheckpointWriter writer_;
};

}  // namespace

WidthStore::WidthStore(fs::path folder, const Model& model, std::vector<ShrinkShape> shapes,
                       Communicator& ranks)
    : folder_(std::move(folder)), model_(model), shapes_(std::move(shapes)), ranks_(ranks) {}

fs::path WidthStore::width_folder(std::size_t shape) const {
  return folder_ / fmt::format("width-{:02}", shape);
}

std::vector<LinearTensors> WidthStore::outputs(std::int64_t layer, LinearInput input) const {
  std::vector<LinearTensors> linears = linears_of(model_.config().blocks[static_cast<std::size_t>(layer)]);
  std::erase_if(linears, [input](const LinearTensors& linear) { return linear.input != input; });
  return linears;
}

std::size_t WidthStore::solved_in(LinearInput output, std::int64_t units) const {
  const auto shape = std::find_if(shapes_.begin(), shapes_.end(),
                                  [&](const ShrinkShape& s) { return units_in(s, 0, output) == units; });
  expect(shape != shapes_.end(), "WidthStore: a width that was solved");
  return static_cast<std::size_t>(shape - shapes_.begin());
}

void WidthStore::write_dense() const {
  CheckpointWriter writer(dense_folder(), plan_like(model_.checkpoint()));
  CheckpointOutput output(model_.checkpoint(), writer);
  output.copy_rest();
  writer.copy_other_files(model_.checkpoint());
  writer.finish();
}

void WidthStore::write_silent() const {
  std::vector<PlannedTensor> tensors;
  for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
    for (const LinearInput input : kOutputs) {
      for (const LinearTensors& linear : outputs(layer, input)) {
        const auto add = [&](const std::string& name) {
          const TensorInfo& tensor = model_.checkpoint().at(name);
          tensors.push_back(planned_as(tensor, tensor.shape));
        };
        add(linear.name + ".weight");
        if (linear.bias) add(linear.name + ".bias");
      }
    }
  }
  CheckpointWriter writer(silent_folder(), tensors);
  for (const PlannedTensor& tensor : tensors) {
    const std::vector<std::byte> zeros(model_.checkpoint().at(tensor.name).num_bytes());
    writer.write_bytes(tensor.name, zeros);
  }
  writer.finish();
}

void WidthStore::solve_shape(std::size_t number, Device& device, const TokenWindows& windows,
                             const ShrinkOptions& options) const {
  const ModelConfig& config = model_.config();
  const ShrinkShape& shape = shapes_[number];
  // Of every layer alike: what this shape is the first to have.
  struct Projection {
    std::int64_t layer;
    LinearTensors linear;
  };
  std::vector<Projection> projections;
  std::vector<PlannedTensor> narrow_tensors, wide_tensors;
  for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) {
    for (const LinearInput input : kOutputs) {
      if (!loses_units(config, shape, layer, input) ||
          solved_in(input, units_in(shape, layer, input)) != number)
        continue;
      KeptUnits kept = all_units(config);  // any of the right number
      kept.channels.resize(static_cast<std::size_t>(shape.channels));
      kept.groups.resize(static_cast<std::size_t>(shape.groups));
      const BlockConfig& block = config.blocks[static_cast<std::size_t>(layer)];
      for (const LinearTensors& linear : outputs(layer, input)) {
        const TensorInfo& weight = model_.checkpoint().at(linear.name + ".weight");
        const auto columns = std::ssize(kept_columns(config, block, linear, kept));
        narrow_tensors.push_back(planned_as(weight, {linear.outputs, columns}));
        wide_tensors.push_back(planned_as(weight, weight.shape));
        projections.push_back({layer, linear});
        if (!linear.bias) continue;
        const TensorInfo& bias = model_.checkpoint().at(linear.name + ".bias");
        narrow_tensors.push_back(planned_as(bias, bias.shape));
        wide_tensors.push_back(planned_as(bias, bias.shape));
      }
    }
  }
  const TemporaryFolder folder(folder_ / fmt::format("narrow-{:02}", number));
  fs::remove_all(folder.path());  // of a run that was killed
  NarrowOutput output(folder.path(), narrow_tensors);
  const ShrinkResult result = device.shrink(model_, shape, {}, windows, options, output);
  output.finish(model_);

  const Checkpoint narrow = Checkpoint::open(folder.path());
  CheckpointWriter wide(width_folder(number), wide_tensors);
  for (const auto& [layer, linear] : projections) {
    const KeptUnits& kept = result.blocks[static_cast<std::size_t>(layer)].kept;
    const std::vector<std::int64_t> columns =
        kept_columns(config, config.blocks[static_cast<std::size_t>(layer)], linear, kept);
    const std::string name = linear.name + ".weight";
    Matrix weight(linear.outputs, linear.inputs);
    spread_columns(narrow.load_matrix(name, linear.outputs, std::ssize(columns)).view(), columns,
                   weight.view());
    wide.write(name, std::as_const(weight).values());
    if (linear.bias) wide.write_bytes(linear.name + ".bias", narrow.bytes(narrow.at(linear.name + ".bias")));
  }
  wide.finish();
}

void WidthStore::solve(Device& device, const TokenWindows& windows, const ShrinkOptions& options) const {
  if (ranks_.is_first()) {
    write_dense();
    write_silent();
  }
  const auto size = static_cast<std::size_t>(ranks_.size());
  for (std::size_t s = static_cast<std::size_t>(ranks_.rank()); s < shapes_.size(); s += size) {
    check_interrupt();
    solve_shape(s, device, windows, options);
  }
  // Until all have come here.
  std::int64_t here = 1;
  add_counts(ranks_, {&here, 1});
}

std::unique_ptr<TemporaryFolder> WidthStore::compose(std::span<const LayerLevel> levels,
                                                     const std::string& name) const {
  const ModelConfig& config = model_.config();
  std::map<std::string, fs::path> tensors;
  for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) {
    const LayerLevel& level = levels[static_cast<std::size_t>(layer)];
    for (const LinearInput input : kOutputs) {
      const std::int64_t units = input == LinearInput::kMlpOutput ? level.channels : level.groups;
      if (!level.is_gone() && units == units_in(shape_of(config), layer, input)) continue;
      const fs::path from = level.is_gone() ? silent_folder() : width_folder(solved_in(input, units));
      for (const LinearTensors& linear : outputs(layer, input)) {
        tensors[linear.name + ".weight"] = from;
        if (linear.bias) tensors[linear.name + ".bias"] = from;
      }
    }
  }
  return compose_model(folder_ / name, dense_folder(), tensors);
}

}  // namespace swiftprune
