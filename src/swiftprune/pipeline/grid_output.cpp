#include "swiftprune/pipeline/grid_output.h"

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

std::string staged_name(const std::string& name) { return name + ".packed"; }

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
    tensors.push_back({staged_name(entry.tensor),
                       DType::kU8,
                       {dense_grid_bytes(*entry.grid, entry.rows, entry.cols)},
                       info.file});
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
      stage_.mark_written(grids_.contains(tensor.name) ? staged_name(tensor.name) : tensor.name);
    }
  }
}

void GridOutput::write_quantized(const std::string& name, const QuantizedWeight& weight) {
  stage_.write_bytes_part(staged_name(name), 0, pack_smallest(weight).bytes());
}

void GridOutput::write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) {
  stage_.write_bytes_part(name, first, bytes);
}

std::int64_t GridOutput::staged_bytes(const std::string& name) const {
  std::byte header[kPackedHeaderBytes];
  stage_.read_bytes_part(staged_name(name), 0, header);
  return packed_size(header);
}

PackedTensor GridOutput::staged(const std::string& name) const {
  const std::int64_t size = staged_bytes(name);
  const StoredWeights::Info info = stored_.info(name);
  if (size > dense_grid_bytes(grids_.at(name), info.rows, info.cols))
    bad_input("{}: found {} bytes in what the stopped run left; start again without --resume", name, size);
  return PackedTensor::read(size, staged_name(name), [&](std::span<std::byte> bytes) {
    stage_.read_bytes_part(staged_name(name), 0, bytes);
  });
}

void GridOutput::read(const std::string& name, std::span<float> values) {
  if (!grids_.contains(name)) return stage_.read(name, values);
  const Matrix matrix = dequantize(unpack_quantized(staged(name)));
  expect(values.size() == matrix.values().size(), "read: as many values as the tensor has");
  std::copy_n(matrix.data(), matrix.numel(), values.data());
}

std::unique_ptr<CheckpointWriter> GridOutput::write_packed(const std::filesystem::path& folder,
                                                           const PackOptions& options,
                                                           PackReport& report) const {
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
    check_interrupt();
    const PackedTensor packed = staged(tensor.name);
    const std::int64_t bytes = std::ssize(packed.bytes());
    const PackedShape& shape = packed.shape();
    report.linears.push_back(
        {tensor.name, {shape.kind, shape.group_n, shape.group_m}, dense_bytes, bytes, nonzero_share(packed)});
    report.dense_bytes += dense_bytes;
    report.packed_bytes += bytes;
    report.target_bytes += bytes;
    tensor = {tensor.name + kPackedSuffix, DType::kU8, {bytes}, tensor.file, true};
  }
  std::vector<std::string> names;
  for (const TensorInfo& tensor : source_.tensors())
    if (!stored_.holds_parts(tensor.name)) names.push_back(tensor.name);
  names.insert(names.end(), stored_.part_names().begin(), stored_.part_names().end());
  auto writer = std::make_unique<CheckpointWriter>(folder, std::move(plan));
  std::vector<std::byte> bytes;
  for (const std::string& name : names) {
    check_interrupt();
    if (grids_.contains(name)) {
      bytes.resize(at(staged_bytes(name)));
      stage_.read_bytes_part(staged_name(name), 0, bytes);
      writer->write_bytes(name + kPackedSuffix, bytes);
    } else if (tables.contains(name)) {
      writer->write_bytes(name + kPackedSuffix, pack_table(source_, name, options.table_bits).bytes());
    } else if (values_.contains(name)) {
      bytes.resize(at(stored_.info(name).num_bytes()));
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
