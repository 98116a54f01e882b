// Flags of the limits that a pruned model must keep.
#pragma once

#include "command.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune::cli {

// Declares --max-perplexity-ratio, --min-top1 and --max-kl.
void add_gate_flags(CLI::App& command, GateLimits& limits);
// Declares --max-loops, --max-length-change and --min-exact.
void add_answer_gate_flags(CLI::App& command, GateLimits& limits);
// Throws Error{kGate} with the first failed line.
void require_passed(const ComparisonReport& report);

// `prune --gate FILE`: compares the written model with the dense one on this text.
struct PruneGate {
  std::string text;
  std::int64_t windows = 8;
  GateLimits limits;
};
void add_prune_gate_flags(CLI::App& command, PruneGate& gate);
// Throws Error{kUsage} for limits without a text and a text without limits: before anything is pruned.
void check(const PruneGate& gate);
// Prints failed gates first; throws Error{kGate} when one fails. The written folder stays.
struct PruneGateRun {
  std::string dense, pruned;
  std::string adapter;  // of the pruned model; empty: none
  std::string field;
  std::int64_t seqlen = 2048;
  ForwardOptions forward;
  const CommonOptions& common;
};
// All ranks call it behind the run. Where all see the folder that the first has written they share the text out, else the
// first measures alone.
void run_prune_gate(const PruneGate& gate, const PruneGateRun& run, Device& device, Communicator& ranks);

}  // namespace swiftprune::cli
