#include "swiftprune/pipeline/checkpoint_output.h"

#include "swiftprune/core/progress.h"

namespace swiftprune {

CheckpointOutput::CheckpointOutput(const Checkpoint& source, CheckpointWriter& writer, Journal* journal,
                                   std::span<const FinishedBlock> finished)
    : source_(source), writer_(writer), journal_(journal) {
  for (const FinishedBlock& block : finished) {
    for (const TensorResult& tensor : block.tensors) {
      writer_.mark_written(tensor.name);
      written_.insert(tensor.name);
    }
  }
}

void CheckpointOutput::mark(const std::string& name) {
  const std::lock_guard lock(mutex_);
  written_.insert(name);
}

void CheckpointOutput::write_part(const std::string& name, std::int64_t first,
                                  std::span<const std::byte> bytes) {
  writer_.write_bytes_part(name, first, bytes);
  mark(name);
}

void CheckpointOutput::finish(const FinishedBlock& block) {
  if (journal_ != nullptr) journal_->add(block);
}

void CheckpointOutput::read(const std::string& name, std::span<float> values) { writer_.read(name, values); }

void CheckpointOutput::copy_rest() {
  for (const TensorInfo& tensor : source_.tensors()) {
    if (written_.contains(tensor.name)) continue;
    check_interrupt();
    writer_.write_bytes(tensor.name, source_.bytes(tensor));
    source_.release(tensor);
  }
}

}  // namespace swiftprune
