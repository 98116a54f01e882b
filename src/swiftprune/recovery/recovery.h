// Self-distillation behind pruning: the weights that are left are trained towards the dense model, zeros stay zeros.
// The only part of the project that trains, and never part of a method: PyTorch does it, in a process of its own
// (trainer.py, which stands inside this library); here are its job, its answer, and the checkpoint, which is checked
// against the pruned one before it gets its name. Source: Hinton et al., arXiv 1503.02531 (the loss, without
// temperature), and masked training as in arXiv 2310.06927.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct RecoverySpec {
  std::filesystem::path dense;     // the model whose answers are the target
  std::string python = "python3";  // with torch and transformers
  std::string device = "cpu";      // as PyTorch names it: cpu, cuda, cuda:1
  int gpus = 1;                    // more: through torchrun, the model's layers shared out (FSDP)
  int threads = 0;
  std::int64_t check_windows = 8;  // the first of the windows: kept out of the training, to see what it gives
  std::int64_t epochs = 3;
  std::int64_t batch = 8;  // windows a step
  double learning_rate = 2e-4;
  std::uint64_t seed = 0;
};

struct RecoveryResult {
  double kl_before = 0.0,
         kl_after = 0.0;             // mean KL(dense || pruned) a token on the windows kept out, in nats
  std::vector<double> kl_of_epochs;  // the best epoch's weights are the ones that are written
  std::int64_t steps = 0;
  double train_seconds = 0.0;
  std::int64_t peak_gpu_bytes = 0;  // of one GPU; 0 on the processor
  std::int64_t trained_tensors = 0, trained_weights = 0;
  std::string torch, transformers;  // their versions
};

// Whether PyTorch is there and sees the device, before anything that takes long: throws as recover() would. work: a folder
// for files that recover() then writes anew.
void check_trainer(const RecoverySpec& spec, const std::filesystem::path& work);

// Trains the pruned model and writes every tensor of it to the writer, in the pruned checkpoint's names and dtypes;
// what is not trained (tables: embedding and output projection; norms, biases, matrices without zeros) byte for byte.
// work: a folder for the job's files. Throws Error{kBadInput} for models that transformers cannot open or that are
// packed, Error{kFailure} when PyTorch is missing or the training fails or a zero did not stay.
RecoveryResult recover(const Checkpoint& pruned, const std::set<std::string>& tables,
                       const TokenWindows& windows, const RecoverySpec& spec,
                       const std::filesystem::path& work, const ProgressFn& progress,
                       CheckpointWriter& writer);

// For the record: what the training did, beside how it was asked for.
nlohmann::ordered_json recovery_record(const RecoveryResult& result);

}  // namespace swiftprune
