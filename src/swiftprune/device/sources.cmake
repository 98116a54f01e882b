target_sources(swiftprune PRIVATE
  device/device.cpp
  device/cpu_device.cpp
  device/cuda_library.cpp
  device/nccl_ranks.cpp
  device/open_device.cpp
  device/packed_product.cpp)
