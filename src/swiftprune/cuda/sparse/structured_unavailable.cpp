// In place of structured.cpp where cuSPARSELt's header was not found.
#include "swiftprune/cuda/sparse/structured.h"

namespace swiftprune::cuda {

struct StructuredProducts::Library {};
struct StructuredProducts::Plan {};

std::string StructuredProducts::why_not() {
  return "cuSPARSELt: this program was built without it (cusparseLt.h was not found)";
}
StructuredProducts::StructuredProducts(DeviceMemory& memory, cudaStream_t stream)
    : memory_(memory), stream_(stream) {
  fail(ErrorKind::kDevice, "{}", why_not());
}
StructuredProducts::~StructuredProducts() = default;
StructuredProducts::Weight StructuredProducts::compress(DeviceView) { return {}; }
StructuredProducts::Algorithm StructuredProducts::search(const Weight&, DeviceView, DeviceView) { return {}; }
bool StructuredProducts::linear(const Weight&, DeviceView, DeviceView, const Algorithm&) { return false; }

}  // namespace swiftprune::cuda
