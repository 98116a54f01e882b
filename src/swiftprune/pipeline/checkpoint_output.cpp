#include "swiftprune/pipeline/checkpoint_output.h"

#include <cstring>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/pipeline/adapter_output.h"

namespace swiftprune {

CheckpointOutput::CheckpointOutput(const Checkpoint& source, CheckpointWriter& writer, Journal* journal,
                                   std::span<const FinishedBlock> finished)
    : source_(source), stored_(source), writer_(writer), journal_(journal) {
  for (const FinishedBlock& block : finished) {
    for (const TensorResult& tensor : block.tensors) {
      const StoredWeights::Part* part = stored_.part(tensor.name);
      const std::string name = part != nullptr ? slice_of(*part).place.tensor : tensor.name;
      if (written_.insert(name).second) take_over(name);
      if (tensor.low_rank == 0) continue;
      const std::string linear = linear_of(tensor.name);
      for (const std::string& factor : {adapter_left_name(linear), adapter_right_name(linear)})
        take_over(factor);
    }
    for (const std::string& name : block.reordered) {
      if (written_.insert(name).second) take_over(name);
    }
  }
}

void CheckpointOutput::take_over(const std::string& name) {
  if (writer_.writes(name)) writer_.mark_written(name);
}

CheckpointOutput::Slice CheckpointOutput::slice_of(const StoredWeights::Part& part) {
  const ExpertTensors& experts = *part.experts;
  if (experts.form() == ExpertForm::kMxfp4) {
    bad_input("experts in MXFP4 hold no other values than their own: expand them first (swiftprune unpack)");
  }
  Slice slice{experts.place(part.expert, part.part), 0,
              experts.outputs(part.part) * experts.inputs(part.part)};
  slice.first = slice.place.first;
  if (slice.place.column != 1 && part.part != ExpertPart::kDown) {  // gate and up in turn
    slice.count *= 2;
    slice.first -= part.part == ExpertPart::kUp ? 1 : 0;
  }
  return slice;
}

// The tensor is first filled with what the source has, since experts that are not pruned stay.
void CheckpointOutput::write_fused(const StoredWeights::Part& part, std::int64_t first,
                                   std::span<const std::byte> bytes) {
  const Slice slice = slice_of(part);
  const TensorInfo& tensor = source_.at(slice.place.tensor);
  const std::lock_guard lock(mutex_);
  if (written_.insert(tensor.name).second) writer_.write_bytes(tensor.name, source_.bytes(tensor));
  if (slice.place.column == 1) {
    writer_.rewrite_bytes_part(tensor.name, slice.place.first + first, bytes);
    return;
  }
  const auto size = static_cast<std::size_t>(size_of(tensor.dtype));
  std::vector<std::byte> whole(static_cast<std::size_t>(slice.count) * size);
  writer_.read_bytes_part(tensor.name, slice.first, whole);
  const std::int64_t cols = part.experts->inputs(part.part);
  for (std::int64_t i = 0; i < std::ssize(bytes) / static_cast<std::int64_t>(size); ++i) {
    const std::int64_t row = (first + i) / cols, col = (first + i) % cols;
    const std::int64_t at =
        slice.place.first - slice.first + row * slice.place.row + col * slice.place.column;
    std::memcpy(whole.data() + static_cast<std::size_t>(at) * size,
                bytes.data() + static_cast<std::size_t>(i) * size, size);
  }
  writer_.rewrite_bytes_part(tensor.name, slice.first, whole);
}

void CheckpointOutput::mark(const std::string& name) {
  const std::lock_guard lock(mutex_);
  written_.insert(name);
}

bool CheckpointOutput::takes(const std::string& name) const {
  const StoredWeights::Part* part = stored_.part(name);
  return writer_.writes(part != nullptr ? slice_of(*part).place.tensor : name);
}

void CheckpointOutput::write_part(const std::string& name, std::int64_t first,
                                  std::span<const std::byte> bytes) {
  if (const StoredWeights::Part* part = stored_.part(name)) return write_fused(*part, first, bytes);
  writer_.write_bytes_part(name, first, bytes);
  mark(name);
}

void CheckpointOutput::finish(const FinishedBlock& block) {
  if (journal_ != nullptr) journal_->add(block);
}

void CheckpointOutput::read(const std::string& name, std::span<float> values) {
  const StoredWeights::Part* part = stored_.part(name);
  if (part == nullptr) return writer_.read(name, values);
  const Slice slice = slice_of(*part);
  const DType dtype = source_.at(slice.place.tensor).dtype;
  const std::int64_t size = size_of(dtype), cols = part->experts->inputs(part->part);
  std::vector<std::byte> whole(static_cast<std::size_t>(slice.count * size));
  writer_.read_bytes_part(slice.place.tensor, slice.first, whole);
  std::vector<float> all(static_cast<std::size_t>(slice.count));
  convert_to_f32(whole, dtype, all);
  for (std::int64_t i = 0; i < std::ssize(values); ++i) {
    const std::int64_t at =
        slice.place.first - slice.first + i / cols * slice.place.row + i % cols * slice.place.column;
    values[static_cast<std::size_t>(i)] = all[static_cast<std::size_t>(at)];
  }
}

void CheckpointOutput::copy_rest() {
  for (const TensorInfo& tensor : source_.tensors()) {
    if (written_.contains(tensor.name) || !writer_.writes(tensor.name)) continue;
    check_interrupt();
    writer_.write_bytes(tensor.name, source_.bytes(tensor));
    source_.release(tensor);
  }
}

}  // namespace swiftprune
