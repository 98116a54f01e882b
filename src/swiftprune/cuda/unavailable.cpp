#include "swiftprune/cuda/device.h"

namespace swiftprune::cuda {

std::unique_ptr<Device> make_device(int, const DeviceOptions&, std::string& why_not) {
  why_not = "this program was built without CUDA (-DSWIFTPRUNE_CUDA=ON)";
  return nullptr;
}

}  // namespace swiftprune::cuda
