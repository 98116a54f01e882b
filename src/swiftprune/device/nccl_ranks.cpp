#include "swiftprune/device/nccl_ranks.h"

#include "swiftprune/core/error.h"
#include "swiftprune/device/cuda_library.h"

namespace swiftprune {
namespace {

void* symbol(const char* name) {
  std::string why_not;
  void* found = cuda_symbol(name, why_not);
  if (found == nullptr) fail(ErrorKind::kDevice, "several GPUs: {}; use --device cpu", why_not);
  return found;
}

}  // namespace

std::string make_nccl_id() {
  std::string id;
  reinterpret_cast<MakeNcclIdFn>(symbol(kNcclIdSymbol))(id);
  return id;
}

std::unique_ptr<Communicator> join_nccl(const NcclRank& rank) {
  return std::unique_ptr<Communicator>(reinterpret_cast<JoinNcclFn>(symbol(kNcclCommunicatorSymbol))(rank));
}

}  // namespace swiftprune
