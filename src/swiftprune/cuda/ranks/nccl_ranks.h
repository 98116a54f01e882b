// device/nccl_ranks.h, in the GPU library.
#pragma once

#include "swiftprune/device/nccl_ranks.h"

namespace swiftprune::cuda {

std::string make_nccl_id();
std::unique_ptr<Communicator> join_nccl(const NcclRank& rank);

}  // namespace swiftprune::cuda
