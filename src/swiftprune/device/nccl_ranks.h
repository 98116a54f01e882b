// Ranks with a GPU each, which NVIDIA's NCCL joins. Its code lies in the GPU library (device/cuda_library.h), which opens
// NCCL when it is asked for.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

// By which ranks find one another: made by one of them, known to all before they join.
std::string make_nccl_id();

struct NcclRank {
  std::string id;
  int rank = 0;
  int size = 1;
  int gpu = 0;  // of this host
  std::chrono::seconds time_limit = kRankTimeLimit;
  // What the ranks say to one another through the host, where they have something for that (MPI); null: that too goes
  // through the GPUs. Outlives the result.
  Communicator* host = nullptr;
};
// Returns when all ranks have joined. Throws Error{kDevice} where there is no GPU code, no such GPU or no NCCL, or one
// of the others has not come within the time limit.
std::unique_ptr<Communicator> join_nccl(const NcclRank& rank);

// What the GPU library exports for these two (cuda/library.cpp).
inline constexpr const char* kNcclIdSymbol = "swiftprune_make_nccl_id";
inline constexpr const char* kNcclCommunicatorSymbol = "swiftprune_join_nccl";
using MakeNcclIdFn = void (*)(std::string& id);
using JoinNcclFn = Communicator* (*)(const NcclRank& rank);

}  // namespace swiftprune
