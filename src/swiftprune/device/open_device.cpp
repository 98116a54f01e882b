#include <charconv>

#include "swiftprune/core/error.h"
#include "swiftprune/device/cuda_library.h"
#include "swiftprune/device/device.h"

namespace swiftprune {
namespace {

// The number of "cuda" (`usual`) or "cuda:N".
int parse_index(std::string_view text, int usual) {
  int index = 0;
  if (text == "cuda") return usual;
  constexpr std::string_view kPrefix = "cuda:";
  const bool named = text.starts_with(kPrefix);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(named ? text.data() + kPrefix.size() : end, end, index);
  if (!named || error != std::errc() || stop != end || index < 0) {
    bad_usage("--device: found '{}', expected cpu, cuda, cuda:N or auto", text);
  }
  return index;
}

}  // namespace

std::unique_ptr<Device> open_device(std::string_view text, const DeviceOptions& options) {
  if (text == "cpu") return make_cpu_device();
  std::string why_not;
  if (text == "auto") {
    auto device = make_cuda_device(options.gpu, options, why_not);
    return device ? std::move(device) : make_cpu_device();
  }
  auto device = make_cuda_device(parse_index(text, options.gpu), options, why_not);
  if (!device) fail(ErrorKind::kDevice, "--device: found {}, but {}; use --device cpu", text, why_not);
  return device;
}

}  // namespace swiftprune
