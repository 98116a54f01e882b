#include "swiftprune/pipeline/grid_output.h"

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

std::string codes_of(const std::string& name) { return name + ".codes"; }
std::string scales_of(const std::string& name) { return name + ".scales"; }
std::string zeros_of(const std::string& name) { return name + ".zeros"; }

}  // namespace

std::vector<PlannedTensor> stage_plan(const Checkpoint& source, const Plan& plan) {
  const StoredWeights stored(source);
  std::vector<PlannedTensor> tensors;
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune) continue;
    const StoredWeights::Info info = stored.info(entry.tensor);
    if (!entry.grid) {
      tensors.push_back({entry.tensor, info.dtype, {info.rows, info.cols}, info.file});
      continue;
    }
    const std::vector<std::int64_t> groups = {entry.rows, entry.grid->groups_of(entry.cols)};
    tensors.push_back({codes_of(entry.tensor), DType::kU8, {entry.rows, entry.cols}, info.file});
    tensors.push_back({scales_of(entry.tensor), DType::kF16, groups, info.file});
    if (entry.grid->asymmetric) tensors.push_back({zeros_of(entry.tensor), DType::kU8, groups, info.file});
  }
  return tensors;
}

GridOutput::GridOutput(const Checkpoint& source, const Plan& plan, CheckpointWriter& stage, Journal& journal,
                       std::span<const FinishedBlock> finished)
    : source_(source), stored_(source), stage_(stage), journal_(journal) {
  for (const PlanEntry& entry : plan.entries) {
    if (!entry.prune) continue;
    if (entry.grid) {
      grids_.emplace(entry.tensor, *entry.grid);
    } else {
      values_.insert(entry.tensor);
    }
  }
  for (const FinishedBlock& block : finished) {
    for (const TensorResult& tensor : block.tensors) {
      const auto grid = grids_.find(tensor.name);
      if (grid == grids_.end()) {
        stage_.mark_written(tensor.name);
        continue;
      }
      stage_.mark_written(codes_of(tensor.name));
      stage_.mark_written(scales_of(tensor.name));
      if (grid->second.asymmetric) stage_.mark_written(zeros_of(tensor.name));
    }
  }
}

void GridOutput::write_quantized(const std::string& name, const QuantizedWeight& weight) {
  stage_.write_bytes(codes_of(name), std::as_bytes(std::span(weight.codes)));
  stage_.write_bytes(scales_of(name), std::as_bytes(std::span(weight.scales)));
  if (weight.grid.asymmetric) stage_.write_bytes(zeros_of(name), std::as_bytes(std::span(weight.zeros)));
}

void GridOutput::write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) {
  stage_.write_bytes_part(name, first, bytes);
}

QuantizedWeight GridOutput::staged(const std::string& name) const {
  const StoredWeights::Info info = stored_.info(name);
  QuantizedWeight weight;
  weight.grid = grids_.at(name);
  weight.rows = info.rows;
  weight.cols = info.cols;
  const auto groups = static_cast<std::size_t>(weight.rows * weight.grid.groups_of(weight.cols));
  weight.codes.resize(static_cast<std::size_t>(weight.rows * weight.cols));
  weight.scales.resize(groups);
  stage_.read_bytes(codes_of(name), std::as_writable_bytes(std::span(weight.codes)));
  stage_.read_bytes(scales_of(name), std::as_writable_bytes(std::span(weight.scales)));
  if (weight.grid.asymmetric) {
    weight.zeros.resize(groups);
    stage_.read_bytes(zeros_of(name), std::as_writable_bytes(std::span(weight.zeros)));
  }
  return weight;
}

void GridOutput::read(const std::string& name, std::span<float> values) {
  if (!grids_.contains(name)) return stage_.read(name, values);
  const Matrix matrix = dequantize(staged(name));
  expect(values.size() == matrix.values().size(), "read: as many values as the tensor has");
  std::copy_n(matrix.data(), matrix.numel(), values.data());
}

std::unique_ptr<CheckpointWriter> GridOutput::write_packed(const std::filesystem::path& folder,
                                                           const PackOptions& options,
                                                           PackReport& report) const {
  std::map<std::string, FormatSize> chosen;
  const std::set<std::string> tables =
      options.table_bits == 0 ? std::set<std::string>{}
                              : std::set<std::string>(options.tables.begin(), options.tables.end());
  std::vector<PlannedTensor> plan = stored_.plan_in_parts();
  for (const TensorInfo& tensor : source_.tensors()) report.source_bytes += tensor.num_bytes();
  for (PlannedTensor& tensor : plan) {
    if (tables.contains(tensor.name)) {
      const PackedLinear& table =
          report.tables.emplace_back(measure_table(source_, tensor.name, options.table_bits));
      report.target_bytes += table.packed_bytes;
      tensor = {tensor.name + kPackedSuffix, DType::kU8, {table.packed_bytes}, tensor.file, true};
      continue;
    }
    const std::int64_t dense_bytes = stored_.part(tensor.name) != nullptr
                                         ? stored_.info(tensor.name).num_bytes()
                                         : source_.at(tensor.name).num_bytes();
    if (!grids_.contains(tensor.name)) {
      report.target_bytes += dense_bytes;
      continue;
    }
    const QuantizedWeight weight = staged(tensor.name);
    const FormatSize best = formats_for(weight).front();
    const double density =
        static_cast<double>(num_nonzero(weight)) / static_cast<double>(weight.rows * weight.cols);
    report.linears.push_back({tensor.name, best.format, dense_bytes, best.num_bytes, density});
    report.dense_bytes += dense_bytes;
    report.packed_bytes += best.num_bytes;
    report.target_bytes += best.num_bytes;
    chosen.emplace(tensor.name, best);
    tensor = {tensor.name + kPackedSuffix, DType::kU8, {best.num_bytes}, tensor.file, true};
  }
  std::vector<std::string> names;
  for (const TensorInfo& tensor : source_.tensors())
    if (!stored_.holds_parts(tensor.name)) names.push_back(tensor.name);
  names.insert(names.end(), stored_.part_names().begin(), stored_.part_names().end());
  auto writer = std::make_unique<CheckpointWriter>(folder, std::move(plan));
  for (const std::string& name : names) {
    check_interrupt();
    if (const auto best = chosen.find(name); best != chosen.end()) {
      writer->write_bytes(name + kPackedSuffix, pack(staged(name), best->second.format).bytes());
    } else if (tables.contains(name)) {
      writer->write_bytes(name + kPackedSuffix, pack_table(source_, name, options.table_bits).bytes());
    } else if (values_.contains(name)) {
      std::vector<std::byte> bytes(at(stored_.info(name).num_bytes()));
      stage_.read_bytes(name, bytes);
      writer->write_bytes(name, bytes);
    } else if (stored_.part(name) != nullptr) {
      writer->write_bytes(name, stored_.bytes(name));
      stored_.release(name);
    } else {
      writer->write_bytes(name, source_.bytes(source_.at(name)));
      source_.release(source_.at(name));
    }
  }
  return writer;
}

}  // namespace swiftprune
